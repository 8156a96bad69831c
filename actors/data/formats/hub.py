"""Data sets of the Hugging Face hub: `hf:ORG/NAME[/CONFIG][@REVISION][:SPLIT]`, through the optional `datasets` library.

A folder laid out as a repository of the hub is read likewise: `hf:/data/mine[:SPLIT]`. The library keeps what it loads in a
cache, so without a network it reads what was loaded before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.data.columns import Columns
from actors.data.formats.records import ROWS_AT_ONCE, Record, batch_records

PREFIX = "hf:"
_FOLDER = re.compile(r"(?P<name>\.{0,2}/[^:]*)(?::(?P<split>[^:]+))?")
_HUB = re.compile(r"(?P<name>[^@:/]+(?:/[^@:/]+)?)(?:/(?P<config>[^@:/]+))?(?:@(?P<revision>[^:]+))?(?::(?P<split>[^:]+))?")


def is_hub_name(path: Path | str) -> bool:
    """Whether a path names a data set of the hub."""
    return str(path).startswith(PREFIX)


def hub_records(path: Path, columns: Columns, most_bytes: int) -> Iterator[Record]:
    """A record per row of one split."""
    dataset = _load(str(path))
    chosen = columns.of(dataset.column_names)
    if not chosen:
        return
    tables = dataset.select_columns(list(chosen.values())).with_format("arrow").iter(ROWS_AT_ONCE)
    batches = (batch for table in tables for batch in table.to_batches())
    yield from batch_records(batches, chosen, most_bytes)


def _load(path: str) -> Any:
    """The named split, or the only one.

    Raises:
        ValueError: the name cannot be read, the library is absent, or it cannot load the data set.
    """
    name, config, revision, split = named(path)
    try:
        import datasets
    except ImportError as error:
        raise ValueError("names of the hub need the library datasets: pip install 'safe-fedllm[datasets]'") from error
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, config, revision=revision)
    except ConnectionError as error:
        raise ValueError(
            f"the hub cannot be reached from here, and the cache has no copy ({error}); load it where there is a network, and "
            "name the folder that save_to_disk writes there"
        ) from error
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        given = "no split is named" if split is None else f"there is no split {split!r:.80}"
        first = next(iter(found))
        raise ValueError(f"{given} (it has {list(found)}); name one at the end, such as {path.removesuffix(f':{split}')}:{first}")
    return found[split]


def named(path: str) -> tuple[str, str | None, str | None, str | None]:
    """Name, configuration, revision and split; None: not given."""
    rest = path.removeprefix(PREFIX)
    if (folder := _FOLDER.fullmatch(rest)) is not None:
        return folder["name"], None, None, folder["split"]
    if (hub := _HUB.fullmatch(rest)) is not None:
        return hub["name"], hub["config"], hub["revision"], hub["split"]
    raise ValueError("names of the hub are written hf:ORG/NAME, hf:ORG/NAME/CONFIG, hf:ORG/NAME@REVISION:SPLIT")
