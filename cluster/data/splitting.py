"""Your own model: the rows of one data set, split over the clients as data.partition says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.partition import split_rows
from actors.data.records import read_checked
from actors.errors import DataError, given_in
from actors.seeding import stream
from cluster.config.schema import RunConfig


def split_over(
    config: RunConfig, clients: Sequence[str], paths: Sequence[Path], folder: Path, key: str
) -> dict[str, tuple[str, ...]]:
    """Write a Parquet file per client into `folder` and return client id -> its files.

    Args:
        paths: The files whose rows are split.
        key: The setting that names them, of which the draw depends.

    Raises:
        DataError: a file or a row cannot be used, or too few rows or values for the clients.
    """
    with given_in(key):
        table = pa.concat_tables([read_checked(path) for path in paths], promote_options="default")
    partition, values = config.data.partition, None
    if partition.by != "iid":
        if partition.column not in table.column_names:
            raise DataError(
                f"{key}: no column {partition.column} for data.partition.column (it has {sorted(table.column_names)})"
            )
        values = table.column(partition.column).to_pylist()
    parts = split_rows(table.num_rows, len(clients), partition, values, stream(config.seed, "partition", key))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for client, rows in zip(clients, parts, strict=True):
        path = folder / f"{client}.parquet"
        pq.write_table(table.take(pa.array(rows)), path)
        files[client] = (str(path.resolve()),)
    return files
