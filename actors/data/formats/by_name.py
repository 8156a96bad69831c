"""Which format a file has, by its name."""

from __future__ import annotations

from pathlib import Path

from actors.data.formats.arrow_file import arrow_records, is_saved_dataset, saved_records
from actors.data.formats.csv_text import csv_records
from actors.data.formats.hub import hub_records, is_hub_name
from actors.data.formats.json_text import json_records
from actors.data.formats.parquet_file import parquet_records
from actors.data.formats.records import Reader

_TEXTS: dict[str, Reader] = {".jsonl": json_records, ".json": json_records, ".csv": csv_records}
_READERS: dict[str, Reader] = {
    ".parquet": parquet_records,
    **_TEXTS,
    ".arrow": arrow_records,
    ".feather": arrow_records,
    **{f"{suffix}.gz": reader for suffix, reader in _TEXTS.items()},
}
KINDS = ", ".join(_READERS)
"""The endings of data files, for messages."""


def reader_of(path: Path) -> Reader | None:
    """What reads a file, a folder that `save_to_disk` wrote, or a data set of the hub; None where nothing does."""
    if is_hub_name(path):
        return hub_records
    return saved_records if is_saved_dataset(path) else _READERS.get(_suffix(path))


def bare_name(path: Path) -> str:
    """A file's name without what says its format: `a` for `a.jsonl.gz`."""
    return path.name.removesuffix(_suffix(path)) if _suffix(path) in _READERS else path.name


def _suffix(path: Path) -> str:
    packed = path.suffix == ".gz"
    return f"{path.with_suffix('').suffix}.gz" if packed else path.suffix
