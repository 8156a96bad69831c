"""Arrow's own files: Feather, the stream format, and the folders that `save_to_disk` of the `datasets` library writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from actors.data.columns import Columns
from actors.data.formats.records import Record, batch_records

_STATE = "state.json"
_SPLITS = "dataset_dict.json"
_FILE = b"ARROW1"
"""First bytes of the format with an index at its end; the stream format has none."""


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
        is_file = source.read(len(_FILE)) == _FILE
        source.seek(0)
        opened = pa.ipc.open_file if is_file else pa.ipc.open_stream
        with opened(source) as reader:
            schema = reader.schema
        chosen = columns.of(schema.names)
        if not chosen:
            return
        source.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=[schema.names.index(name) for name in chosen.values()])
        with opened(source, options=options) as reader:
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
            yield from batch_records(batches, chosen, most_bytes)


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
