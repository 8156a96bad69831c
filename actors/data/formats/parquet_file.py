"""Parquet. Text stays in dictionaries until its size is known: few bytes on disk can stand for very many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from actors.data.columns import Columns
from actors.data.formats.records import ROWS_AT_ONCE, VALUE_BYTES, Record, TooLarge, batch_records


def parquet_records(path: Path, columns: Columns, most_bytes: int) -> Iterator[Record]:
    """A record per row."""
    with pq.ParquetFile(path) as plain:
        metadata = plain.metadata
        chosen = columns.of(plain.schema_arrow.names)
        names = set(chosen.values())
        leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.partition(".")[0] in names]
        _check_size(metadata, leaves, most_bytes)
        texts = [metadata.schema.column(i).path for i in leaves if metadata.schema.column(i).physical_type == "BYTE_ARRAY"]
    if chosen:
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            yield from batch_records(file.iter_batches(ROWS_AT_ONCE, columns=list(names)), chosen, most_bytes)


def _check_size(metadata: pq.FileMetaData, leaves: Sequence[int], most_bytes: int) -> None:
    """By what the file says of itself, before any of it is read."""
    chunks = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups) for leaf in leaves]
    taken = sum(chunk.total_uncompressed_size for chunk in chunks) + VALUE_BYTES * sum(chunk.num_values for chunk in chunks)
    if max(taken, VALUE_BYTES * metadata.num_rows) > most_bytes:
        raise TooLarge(most_bytes)
