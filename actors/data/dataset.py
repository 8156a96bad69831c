"""A client's encoded examples: kept in a file once they are encoded, and drawn in seeded batches in every round."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.encoding import Batch, Encoded, collate
from actors.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples one after the other, as flat arrays: a Python number for each token would take ten times the memory."""

    ids: np.ndarray
    """Token ids, int32."""
    labels: np.ndarray
    """As long as `ids`, int32; IGNORED outside the responses."""
    starts: np.ndarray
    """Where each example begins, and where the last ends; int64."""

    @classmethod
    def of(cls, examples: Iterable[Encoded]) -> Dataset:
        """The data set of these examples, in their order."""
        rows = list(examples)
        starts = np.cumsum([0, *(len(row.ids) for row in rows)], dtype=np.int64)
        return cls(_flat(row.ids for row in rows), _flat(row.labels for row in rows), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def example(self, index: int) -> Encoded:
        """One example, counted from 0."""
        place = slice(self.starts[index], self.starts[index + 1])
        return Encoded(tuple(self.ids[place].tolist()), tuple(self.labels[place].tolist()))

    @property
    def examples(self) -> list[Encoded]:
        """All examples in order."""
        return [self.example(index) for index in range(len(self))]

    def batches(self, rng: np.random.Generator, num_batches: int, batch_size: int) -> list[Batch]:
        """Draw batches as `draw_batches` does."""
        return [collate([self.example(row) for row in rows]) for rows in draw_batches(rng, len(self), num_batches, batch_size)]

    def save(self, path: Path) -> None:
        """Write the examples to a Parquet file with a row for each."""
        columns = {name: pa.LargeListArray.from_arrays(self.starts, getattr(self, name)) for name in ("ids", "labels")}
        pq.write_table(pa.table(columns), path, compression="zstd")


def draw_batches(rng: np.random.Generator, num_examples: int, num_batches: int, batch_size: int) -> np.ndarray:
    """Example numbers, (num_batches, batch_size): without replacement until all are used, then from a fresh permutation."""
    needed = num_batches * batch_size
    order = np.concatenate([rng.permutation(num_examples) for _ in range(-(-needed // num_examples))])
    return order[:needed].reshape(num_batches, batch_size)


def _read(path: str) -> pa.Table:
    try:
        return pq.read_table(path, columns=["ids", "labels"])
    except Exception as error:  # a disk may have lost or changed it
        raise DataError(f"token file {path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _flat(rows: Iterable[Sequence[int]]) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(rows), np.int32)


def load_dataset(files: Sequence[str]) -> Dataset:
    """The examples of files that `Dataset.save` wrote, one file after the other; raises DataError that names the file."""
    table = pa.concat_tables(map(_read, files))
    ids, labels = (table[name].combine_chunks() for name in ("ids", "labels"))
    return Dataset(ids.values.to_numpy(), labels.values.to_numpy(), np.asarray(ids.offsets))
