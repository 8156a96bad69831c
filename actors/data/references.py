"""Labelled reference clients from an operator's own benign and unsafe files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.files import Files
from actors.data.folders import data_files
from actors.data.formats.by_name import bare_name
from actors.data.records import read_checked
from actors.errors import DataError
from actors.seeding import stream
from probe.samples import ReferenceLabel

_FAMILY = "family"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A client of the server's own, with data that it labels."""

    label: ReferenceLabel
    files: Files


def split_references(
    path: Path,
    malicious: bool,
    clients: int,
    folder: Path,
    seed: int,
    key: str,
    mapping: Mapping[str, str] | None = None,
) -> list[Reference]:
    """Deal the rows of a file, or of a folder's files, to `clients` reference clients of one family each, or of several where
    there are more families than clients.

    A row's family is its column `family`, or else the name of its file. Every family gets at least one client. A client's name
    ends in a digest of its family and rows, so clients of two collections have different names wherever their data lies.

    Args:
        key: The setting that gave the number of clients.
        mapping: Our name of a column -> the files' (`data.columns`).

    Raises:
        DataError: no usable file, or a family with fewer rows than clients.
    """
    families = _grouped(_families(path, mapping), clients)
    folder.mkdir(parents=True, exist_ok=True)
    references = []
    for index, (family, table) in enumerate(sorted(families.items())):
        share = clients // len(families) + (index < clients % len(families))
        if table.num_rows < share:
            raise DataError(f"{path}: family {family} has {table.num_rows} rows for {share} clients; lower {key}={clients}")
        order = stream(seed, "reference rows", family, malicious).permutation(table.num_rows)
        for rows in np.array_split(order, share):
            part = table.take(pa.array(np.sort(rows)))
            name = f"{'malicious' if malicious else 'benign'}-{len(references):03d}-{_digest(family, part)}"
            file = folder / f"{name}.parquet"
            pq.write_table(part, file)
            label = ReferenceLabel(client=name, malicious=malicious, family=family, source=path.resolve().name)
            references.append(Reference(label=label, files=(str(file.resolve()),)))
    return references


def _grouped(families: Mapping[str, pa.Table], most: int) -> dict[str, pa.Table]:
    """At most so many families: where there are more, every `most`-th one is part of the same."""
    names = sorted(families)
    groups = [names[start::most] for start in range(min(most, len(names)))]
    return {"+".join(group): pa.concat_tables([families[name] for name in group], promote_options="default") for group in groups}


def _digest(family: str, rows: pa.Table) -> str:
    """Eight hexadecimal digits of a family and its rows, which do not depend on the kind of file."""
    content = json.dumps([family, rows.to_pylist()], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _families(path: Path, mapping: Mapping[str, str] | None) -> dict[str, pa.Table]:
    parts: dict[str, list[pa.Table]] = {}
    for file in data_files(path):
        for family, table in _by_family(read_checked(file, mapping=mapping), bare_name(file)):
            parts.setdefault(family, []).append(table)
    return {family: pa.concat_tables(tables, promote_options="default") for family, tables in parts.items()}


def _by_family(table: pa.Table, name: str) -> Iterator[tuple[str, pa.Table]]:
    if _FAMILY not in table.column_names:
        yield name, table
        return
    values = np.array([str(value) for value in table.column(_FAMILY).to_pylist()])
    for family in sorted(set(values.tolist())):
        yield family, table.filter(pa.array(values == family))
