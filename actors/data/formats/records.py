"""What all formats promise: records under our own column names, refusals by row, and a bound on what they take in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from actors.data.columns import Columns

MOST_BYTES = 2**30
"""What the needed columns of one file may take in memory: 1 GiB, which is more than ten million short rows."""
VALUE_BYTES = 64
"""What a value takes beside its characters, as a Python object in a list."""
ROWS_AT_ONCE = 256

Record: TypeAlias = Mapping[str, object]
"""Our name of a column -> its value in one row."""
Reader: TypeAlias = Callable[[Path, Columns, int], Iterator[Record]]
"""Takes a file, which columns to read, and the most bytes; raises anything on a file that cannot be read."""


class BadValue(ValueError):
    """The row that is being read holds something that is refused."""


class TooLarge(ValueError):
    """A file holds more than may be read."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"it holds more than {most_bytes / 2**20:g} MiB of rows, which is the most that is read; split it")


def renamed(record: Record, chosen: Mapping[str, str]) -> Record:
    """A record of the file under our own names."""
    return {ours: record[theirs] for ours, theirs in chosen.items()}


def batch_records(batches: Iterable[pa.RecordBatch], chosen: Mapping[str, str], most_bytes: int) -> Iterator[Record]:
    """A record per row of Arrow batches, each checked before a value of it becomes an object."""
    taken = 0
    for batch in batches:
        batch.validate(full=True)
        taken += sum(_expanded_bytes(batch.column(name)) for name in chosen.values())
        if taken > most_bytes:
            raise TooLarge(most_bytes)
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            for record in batch.slice(start, ROWS_AT_ONCE).to_pylist():
                yield renamed(record, chosen)


def _expanded_bytes(column: pa.Array) -> int:
    """What a column's values take once each is an object of its own."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return VALUE_BYTES * len(column) + _expanded_bytes(column.flatten())
    if pa.types.is_struct(column.type):
        return VALUE_BYTES * len(column) + sum(_expanded_bytes(field) for field in column.flatten())
    if not pa.types.is_dictionary(column.type):
        return VALUE_BYTES * len(column) + column.nbytes
    lengths = np.array([len(value or "") for value in column.dictionary.to_pylist()], dtype=np.int64)
    indices = column.indices.drop_null().to_numpy(zero_copy_only=False)
    return VALUE_BYTES * len(column) + int(lengths[indices].sum())
