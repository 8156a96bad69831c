"""A table that grows by a round at a time: a folder of Parquet files, one a round, which readers of Parquet take for one table.

So a commit costs what its round has, however many rounds there were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.state.place import Place


class GrowingTable:
    """One table of a run directory; only its owner may write it."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self._written: set[str] = set()

    def write(self, rounds: Mapping[int, Callable[[], pa.Table]]) -> None:
        """Let the table be these rounds.

        The first call writes all of them and removes whatever else there is: the run may have been resumed from an earlier round.
        A later call writes those that are new.

        Args:
            rounds: Index of a round -> its rows. A round that was written does not change.

        Raises:
            CheckpointError: a file cannot be written or removed.
        """
        is_first = not self._written
        for index, rows in rounds.items():
            if (name := f"round-{index:06d}.parquet") not in self._written:
                self._place.write(f"{self._name}/{name}", encoded(rows()))
                self._written.add(name)
        if is_first:
            for other in {name for name, _ in self._place.entries(self._name)} - self._written:
                self._place.remove(f"{self._name}/{other}")


def encoded(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()
