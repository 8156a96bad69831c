"""Arrow's own files: Feather, the stream format, and the folders that `save_to_disk` of the `datasets` library writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from actors.data.columns import Columns
from actors.data.formats.arrow_sizes import unpacked_bytes
from actors.data.formats.records import Record, TooLarge, batch_records

_STATE = "state.json"
_SPLITS = "dataset_dict.json"
_FILE = b"ARROW1\0\0"
"""First bytes of the file format: a stream between these and an index, which is not needed to read all rows."""


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is one data set that `datasets` has saved."""
    return (path / _STATE).is_file() and (path / "dataset_info.json").is_file()


def saved_splits(path: Path) -> list[str]:
    """The names of the splits where a folder holds several data sets that `datasets` has saved together; else none."""
    if not (path / _SPLITS).is_file():
        return []
    return sorted(folder.name for folder in path.iterdir() if is_saved_dataset(folder))


def arrow_records(path: Path, columns: Columns, most_bytes: int) -> Iterator[Record]:
    """A record per row of a file."""
    with pa.memory_map(str(path)) as source:
        start = len(_FILE) if source.read(len(_FILE)) == _FILE else 0
        source.seek(start)
        _check_sizes(source, most_bytes)
        source.seek(start)
        with pa.ipc.open_stream(source) as reader:
            schema = reader.schema
        chosen = columns.of(schema.names)
        if not chosen:
            return
        source.seek(start)
        options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in chosen.values()])
        with pa.ipc.open_stream(source, options=options) as batches:
            yield from batch_records(batches, chosen, most_bytes)


def _check_sizes(source: pa.MemoryMappedFile, most_bytes: int) -> None:
    """Few bytes on disk can stand for very many, and a batch is unpacked at once."""
    for message in pa.ipc.MessageReader.open_stream(source):
        if unpacked_bytes(message) > most_bytes:
            raise TooLarge(most_bytes)


def saved_records(path: Path, columns: Columns, most_bytes: int) -> Iterator[Record]:
    """A record per row of a data set that `save_to_disk` wrote."""
    for file in _parts(path):
        yield from arrow_records(file, columns, most_bytes)


def _parts(path: Path) -> Iterable[Path]:
    names = [part["filename"] for part in json.loads((path / _STATE).read_bytes())["_data_files"]]
    for name in names:
        file = path / name
        if file.parent != path or not file.is_file():
            raise ValueError(f"{_STATE} names the file {name!r:.80}, which is not in the folder")
        yield file
