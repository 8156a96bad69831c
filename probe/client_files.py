"""The Parquet file of one reference client in a sample store: a row and a row group per local step, a column per tensor.

Writing and reading hold one step at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, repeat, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from probe.samples import ReferenceLabel
from probe.store_meta import META_FILE, SCHEMA_VERSION, StoreMeta, some_of

if TYPE_CHECKING:
    import torch

SampleTensors = Mapping[str, "torch.Tensor"]
"""PEFT parameter name -> what one local step added to that tensor, float32."""

_COLLECT_AGAIN = "delete the file and collect its client again"
_TEXTS = ("client", "family", "source", "model_fingerprint", "lora_fingerprint")
_LABEL_COLUMNS = {"label": pa.int8(), "step": pa.int32(), **dict.fromkeys(_TEXTS, pa.string())}
_VALUE = pa.field("element", pa.float32(), nullable=False)


class ClientFiles:
    """Writes and reads the client files of one store. Reading raises ValueError for a damaged or foreign file; names it."""

    def __init__(self, meta: StoreMeta) -> None:
        self._meta = meta
        tensors = {name: pa.list_(_VALUE, int(np.prod(shape))) for name, shape in sorted(meta.shapes.items())}
        fields = [pa.field(name, kind, nullable=False) for name, kind in (_LABEL_COLUMNS | tensors).items()]
        self._schema = pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION)})

    def write(self, path: Path, label: ReferenceLabel, deltas: Iterable[SampleTensors], place: str) -> None:
        """Write a client's deltas, the first at step 1; each is let go before the next is taken.

        Raises ValueError when there is none, or one is no sample of this store; names `place`, step and tensor.
        """
        steps = 0
        with pq.ParquetWriter(path, self._schema, use_dictionary=False, compression="NONE", write_page_checksum=True) as writer:
            for delta in deltas:
                steps += 1
                self._check_delta(delta, f"{place}, step {steps}")
                writer.write_batch(self._row(label, steps, delta))
                del delta  # A loop would keep it until the next one is there.
        if not steps:
            raise ValueError(f"{place} has no delta; it must train at least one step")

    def read_label(self, path: Path, client: str) -> tuple[ReferenceLabel, int]:
        """The client's label and its number of steps; the deltas are not read.

        Raises ValueError unless the rows are the steps 1, 2, ... of that client in this store.
        """
        rows = [batch.to_pylist()[0] for batch in self._rows(path, list(_LABEL_COLUMNS))]
        if not rows:
            raise ValueError(f"{path} holds no sample; {_COLLECT_AGAIN}")
        first = rows[0]
        label = ReferenceLabel(client=client, malicious=bool(first["label"]), family=first["family"], source=first["source"])
        expected = [self._label_values(label, step) for step in range(1, len(rows) + 1)]
        odd = [column for column in _LABEL_COLUMNS if [row[column] for row in rows] != [row[column] for row in expected]]
        if odd:
            raise ValueError(
                f"{path} does not hold the steps of client {client} of this store: see {some_of(odd)}; {_COLLECT_AGAIN}"
            )
        return label, len(rows)

    def read_deltas(self, path: Path, names: Sequence[str] | None = None) -> Iterator[SampleTensors]:
        """The tensors `names` (None: all) of each step, each let go before the next is read: `map` keeps none."""
        names = list(self._meta.shapes) if names is None else names
        places = (f"{path}, step {step}" for step in count(1))
        return map(self._delta, self._rows(path, names), repeat(names), places)

    def check_equal(self, path: Path, other: Path) -> None:
        """Raise ValueError unless both files hold the same label and samples."""
        pairs = zip_longest(self._rows(path, self._schema.names), self._rows(other, self._schema.names))
        if not all(mine == theirs for mine, theirs in pairs):
            raise ValueError(f"{path} and {other} are different samples of one client; delete one of them")

    def _row(self, label: ReferenceLabel, step: int, delta: SampleTensors) -> pa.RecordBatch:
        values = self._label_values(label, step)
        columns = [
            pa.array([values[field.name]], field.type) if field.name in values else _column(delta[field.name], field.type)
            for field in self._schema
        ]
        return pa.record_batch(columns, schema=self._schema)

    def _label_values(self, label: ReferenceLabel, step: int) -> dict[str, int | str]:
        """What a row holds besides tensors."""
        made_with = self._meta.model_fingerprint, self._meta.lora_fingerprint
        values = int(label.malicious), step, label.client, label.family, label.source, *made_with
        return dict(zip(_LABEL_COLUMNS, values, strict=True))

    def _rows(self, path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a file, a batch each; a row group is read when its rows are due."""
        with _named(path):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            schema = file.schema_arrow
        self._check_schema(schema, path)
        with _named(path), file:
            for group in range(file.num_row_groups):  # `iter_batches` would read ahead, up to the whole file.
                yield from file.read_row_group(group, columns=list(columns)).to_batches(max_chunksize=1)

    def _delta(self, row: pa.RecordBatch, names: Sequence[str], place: str) -> SampleTensors:
        delta = {name: _tensor(row[name], self._meta.shapes[name]) for name in names}
        _check_finite(delta, place)
        return delta

    def _check_schema(self, found: pa.Schema, path: Path) -> None:
        ours, theirs = (Counter((field.name, field.type, field.nullable) for field in schema) for schema in (self._schema, found))
        different = sorted({name for name, _, _ in (ours - theirs) | (theirs - ours)})
        if not different and (found.metadata or {}).get(b"schema_version") != self._schema.metadata[b"schema_version"]:
            different = ["schema_version"]
        if different:
            raise ValueError(f"{path} does not match {META_FILE} in {some_of(different)}; {_COLLECT_AGAIN}")

    def _check_delta(self, delta: SampleTensors, place: str) -> None:
        import torch

        shapes = self._meta.shapes
        odd = sorted(set(delta) ^ set(shapes))
        if odd:
            raise ValueError(f"{place}: missing or unknown {some_of(odd)}; the store holds {some_of(sorted(shapes))}")
        for name, shape in shapes.items():
            dtype, found = delta[name].dtype, tuple(delta[name].shape)
            if (dtype, found) != (torch.float32, shape):
                raise ValueError(f"{place}: {name} is {dtype} {found}, not torch.float32 {shape}")
        _check_finite(delta, place)


def _column(tensor: torch.Tensor, kind: pa.DataType) -> pa.Array:
    """One row: the tensor's values in row-major order."""
    return pa.FixedSizeListArray.from_arrays(pa.array(tensor.detach().cpu().reshape(-1).numpy()), type=kind)


def _tensor(column: pa.Array, shape: Sequence[int]) -> torch.Tensor:
    """The one row of a column, as memory of its own: Arrow's is read-only."""
    import torch

    return torch.from_numpy(column.flatten().to_numpy().copy()).reshape(shape)


def _check_finite(delta: SampleTensors, place: str) -> None:
    for name, tensor in delta.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{place}: {name} holds NaN or infinity; collect the client again")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of Arrow become a ValueError with the file's name and what to do about it."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        damaged = getattr(error, "errno", None) is None
        fix = _COLLECT_AGAIN if damaged else "check the disk and the file's permissions"
        raise ValueError(f"{path} cannot be read: {error}; {fix}") from error
