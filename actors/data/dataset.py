"""A client's encoded examples: kept in a file once they are encoded, and drawn in seeded batches in every round.

The file is mapped into memory and never copied. All actors of a node share its pages, which belong to the page cache; only those
that a batch is drawn from are read. So neither the number of clients nor that of actors adds memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from actors.data.encoding import Batch, Encoded, collate
from actors.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Examples one after the other, as flat arrays, which may be views on a file and are not written to."""

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
        """Write the examples to an Arrow file with a row for each, in one batch and not compressed, so that it can be mapped."""
        columns = {name: pa.LargeListArray.from_arrays(self.starts, getattr(self, name)) for name in ("ids", "labels")}
        batch = pa.record_batch(columns)
        with ipc.new_file(path, batch.schema) as file:
            file.write_batch(batch)


def draw_batches(rng: np.random.Generator, num_examples: int, num_batches: int, batch_size: int) -> np.ndarray:
    """Example numbers, (num_batches, batch_size): without replacement until all are used, then from a fresh permutation."""
    needed = num_batches * batch_size
    order = np.concatenate([rng.permutation(num_examples) for _ in range(-(-needed // num_examples))])
    return order[:needed].reshape(num_batches, batch_size)


def _mapped(path: str) -> pa.RecordBatch:
    try:
        with pa.memory_map(path) as file:
            batch = ipc.open_file(file).get_batch(0).select(["ids", "labels"])
        batch.validate(full=True)
    except Exception as error:  # a disk may have lost or changed it
        raise DataError(f"token file {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return batch


def _flat(rows: Iterable[Sequence[int]]) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(rows), np.int32)


def load_dataset(files: Sequence[str]) -> Dataset:
    """The examples of files that `Dataset.save` wrote, one file after the other; raises DataError that names the file.

    One file is mapped; several are copied into one.
    """
    batches = [_mapped(path) for path in files]
    ids, labels = (_joined([batch[name] for batch in batches]) for name in ("ids", "labels"))
    return Dataset(ids.values.to_numpy(), labels.values.to_numpy(), ids.offsets.to_numpy())


def num_examples(path: str) -> int:
    """How many examples a file has; raises DataError."""
    return _mapped(path).num_rows


def _joined(arrays: Sequence[pa.Array]) -> pa.Array:
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
