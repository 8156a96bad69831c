"""The sample store: labelled raw deltas of reference clients, as a Parquet dataset on disk.

`store.json` says what the samples were made with. `samples/state=<state>/<client>.parquet` holds one reference client:
a row and a row group per local step, a column per tensor. Writing, reading and merging hold one step at a time.
"""

from __future__ import annotations

import json
import operator
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, repeat, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from probe.samples import Samples

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
META_FILE = "store.json"

Delta = Mapping[str, "torch.Tensor"]
"""PEFT parameter name -> what one local step added to that tensor."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SUFFIX = ".parquet"
_COLLECT_AGAIN = "delete the file and collect its client again"
_LABEL_COLUMNS = {
    "label": pa.int8(),
    "step": pa.int32(),
    "client": pa.string(),
    "family": pa.string(),
    "source": pa.string(),
    "model_fingerprint": pa.string(),
    "lora_fingerprint": pa.string(),
}
_VALUE = pa.field("element", pa.float32(), nullable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMeta:
    """What all samples of a store were made with."""

    shapes: Mapping[str, tuple[int, ...]]
    """PEFT parameter name -> shape of each tensor that a sample holds."""
    layers: Mapping[str, int]
    """PEFT parameter name -> transformer layer of each of them."""
    model_fingerprint: str
    lora_fingerprint: str
    recipe: Mapping[str, Any]
    """Local training the samples were collected with, ready for JSON: learning_rate, steps, batch_size, weight_decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLabel:
    """What the server knows of a reference client, whose data it owns."""

    client: str
    malicious: bool
    family: str
    """The family of tasks that the client trained on."""
    source: str
    """Where its data comes from, such as a file."""


@dataclass(frozen=True, slots=True)
class _Client:
    """A reference client in a store."""

    state: str
    path: Path
    label: ReferenceLabel
    num_steps: int


class SampleStore:
    """A sample store in a folder; make one with `create_or_open` or `open`."""

    def __init__(self, folder: Path, meta: StoreMeta) -> None:
        self.folder = folder
        self.meta = meta
        self._schema = _schema(meta)

    @classmethod
    def create_or_open(cls, folder: Path, meta: StoreMeta) -> SampleStore:
        """Open the store in `folder`, or begin one there.

        Raises:
            ValueError: `meta` contradicts itself, or the folder's store was made with something else; names the first
                difference.
        """
        _check_tensors(meta)
        if not (folder / META_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _replacing(folder / META_FILE) as temporary:
                temporary.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(meta)}, indent=2) + "\n")
        store = cls.open(folder)
        store._check_same(meta)
        return store

    @classmethod
    def open(cls, folder: Path) -> SampleStore:
        """Open an existing store.

        Raises:
            ValueError: the folder holds no store, or its `store.json` cannot be used; names the folder and what is wrong.
        """
        path = folder / META_FILE
        if not path.is_file():
            raise ValueError(f"{folder} is no sample store, it has no {META_FILE}; collect one with `safe-fedllm probe collect`")
        try:
            return cls(folder, _decode_meta(path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the store {folder}: {META_FILE} cannot be used: {error}; restore it or collect again") from error

    def has(self, state: str, client: str) -> bool:
        """Whether a client that started from an adapter state is in the store, which it is with all its steps.

        Raises:
            ValueError: a name that cannot be a file name.
        """
        return self._path(state, client).exists()

    def append(self, state: str, label: ReferenceLabel, deltas: Iterable[Delta]) -> None:
        """Add a client with its deltas; when this fails, nothing of the client is in the store.

        Args:
            state: The adapter state that training started from, such as `initial`.
            deltas: One per local step, the first is step 1. Each has exactly the tensors of `meta.shapes`, float32 and
                finite, on any device. They are taken one by one, each let go before the next.

        Raises:
            ValueError: a name that cannot be a file name, a client that is there already, no delta, or a delta that is no
                sample of this store; names client, step and tensor.
        """
        path = self._path(state, label.client)
        if path.exists():
            raise ValueError(f"client {label.client} of state {state} is in the store already; delete {path} to replace it")
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = 0
        with _replacing(path) as temporary, self._writer(temporary) as writer:
            for delta in deltas:
                steps += 1
                self._check_delta(delta, f"state {state}, client {label.client}, step {steps}")
                writer.write_batch(self._row(label, steps, delta))
                del delta  # A loop would keep it until the next one is there.
            if not steps:
                raise ValueError(f"client {label.client} of state {state} has no delta; it must train at least one step")

    def __len__(self) -> int:
        """Number of samples; raises ValueError as `clients` does."""
        return sum(client.num_steps for client in self._clients())

    def clients(self) -> list[tuple[str, ReferenceLabel]]:
        """(adapter state, label) of every client, sorted by state and client. The deltas are not read.

        Raises:
            ValueError: a damaged or foreign file; names it.
        """
        return [(client.state, client.label) for client in self._clients()]

    def read(self, extract: Callable[[Delta], np.ndarray], names: Sequence[str], max_in_memory: int = 1 << 30) -> Samples:
        """The feature of every sample, sorted by state, client and step.

        Args:
            extract: Makes the feature (d,) float32 of a sample from its tensors `names`. Called once per sample, in order.
            names: The tensors to read; no others are.
            max_in_memory: Bytes of features (4 n d) above which they are mapped from a temporary file, which goes with them.

        Raises:
            ValueError: tensors that were not collected, no samples, a damaged or foreign file, a value that is not finite,
                or no room for the temporary file.
        """
        self._check_collected(names)
        clients = self._clients()
        if not clients:
            raise ValueError(f"the store {self.folder} holds no samples; collect some with `safe-fedllm probe collect`")
        features = (extract(delta) for client in clients for delta in self._deltas(client.path, names))
        steps = [client.num_steps for client in clients]
        return Samples(
            features=_stack(features, sum(steps), max_in_memory),
            labels=np.repeat([int(client.label.malicious) for client in clients], steps),
            clients=np.repeat([client.label.client for client in clients], steps),
            families=np.repeat([client.label.family for client in clients], steps),
            steps=np.concatenate([np.arange(1, num + 1) for num in steps]),
            states=np.repeat([client.state for client in clients], steps),
        )

    def merge(self, other: SampleStore) -> int:
        """Copy the clients of another store that are not here; returns how many.

        Clients that both hold are compared before anything is copied. A merge that broke off can be repeated.

        Raises:
            ValueError: the other store was made with something else, a client of both has other samples or another label, or
                a file is damaged or foreign; names the field or the file.
        """
        self._check_same(other.meta)
        new = []
        for client in other._clients():
            if self.has(client.state, client.label.client):
                self._check_equal(client)
            else:
                new.append(client)
        for client in new:
            self.append(client.state, client.label, other._deltas(client.path, list(self.meta.shapes)))
        return len(new)

    def _path(self, state: str, client: str) -> Path:
        for what, name in (("state", state), ("client", client)):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{what} {name!r} cannot be a file name; use up to 200 of [A-Za-z0-9._-], no [._-] first")
        return self.folder / "samples" / f"state={state}" / f"{client}{_SUFFIX}"

    def _clients(self) -> list[_Client]:
        """Every client, sorted by state and name."""
        paths = (path for path in self.folder.glob(f"samples/state=*/*{_SUFFIX}") if not path.name.startswith("."))
        places = sorted((path.parent.name.removeprefix("state="), path.name.removesuffix(_SUFFIX), path) for path in paths)
        return [self._client(state, name, path) for state, name, path in places]

    def _client(self, state: str, name: str, path: Path) -> _Client:
        """The client in a file, whose rows must be the steps 1, 2, ... of that client in this store."""
        rows = [batch.to_pylist()[0] for batch in self._rows(path, list(_LABEL_COLUMNS))]
        if not rows:
            raise ValueError(f"{path} holds no sample; {_COLLECT_AGAIN}")
        first = rows[0]
        label = ReferenceLabel(client=name, malicious=bool(first["label"]), family=first["family"], source=first["source"])
        expected = [self._label_values(label, step) for step in range(1, len(rows) + 1)]
        odd = [column for column in _LABEL_COLUMNS if [row[column] for row in rows] != [row[column] for row in expected]]
        if odd:
            raise ValueError(f"{path} does not hold the steps of client {name} of this store: see {_some(odd)}; {_COLLECT_AGAIN}")
        return _Client(state, path, label, len(rows))

    def _writer(self, path: Path) -> pq.ParquetWriter:
        return pq.ParquetWriter(path, self._schema, use_dictionary=False, compression="NONE", write_page_checksum=True)

    def _row(self, label: ReferenceLabel, step: int, delta: Delta) -> pa.RecordBatch:
        values = self._label_values(label, step)
        columns = [
            pa.array([values[field.name]], field.type) if field.name in values else _column(delta[field.name], field.type)
            for field in self._schema
        ]
        return pa.record_batch(columns, schema=self._schema)

    def _label_values(self, label: ReferenceLabel, step: int) -> dict[str, Any]:
        """What a row holds besides tensors."""
        return {
            "label": int(label.malicious),
            "step": step,
            "client": label.client,
            "family": label.family,
            "source": label.source,
            "model_fingerprint": self.meta.model_fingerprint,
            "lora_fingerprint": self.meta.lora_fingerprint,
        }

    def _rows(self, path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows of a file, a batch each; a row group is read when its rows are due."""
        with _named(path):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            schema = file.schema_arrow
        self._check_schema(schema, path)
        with _named(path), file:
            for group in range(file.num_row_groups):  # `iter_batches` would read ahead, up to the whole file.
                yield from file.read_row_group(group, columns=list(columns)).to_batches(max_chunksize=1)

    def _deltas(self, path: Path, names: Sequence[str]) -> Iterator[Delta]:
        """The deltas of a file, each let go before the next is read: `map` keeps none."""
        places = (f"{path}, step {step}" for step in count(1))
        return map(self._delta, self._rows(path, names), repeat(names), places)

    def _delta(self, row: pa.RecordBatch, names: Sequence[str], place: str) -> Delta:
        delta = {name: _tensor(row[name], self.meta.shapes[name]) for name in names}
        _check_finite(delta, place)
        return delta

    def _check_equal(self, client: _Client) -> None:
        """Raise ValueError unless this store's client of that state and name has the same label and samples."""
        path, columns = self._path(client.state, client.label.client), self._schema.names
        pairs = zip_longest(self._rows(path, columns), self._rows(client.path, columns))
        if not all(mine == other for mine, other in pairs):
            raise ValueError(f"{path} and {client.path} are different samples of one client; delete one of them")

    def _check_schema(self, found: pa.Schema, path: Path) -> None:
        ours, theirs = (Counter((field.name, field.type, field.nullable) for field in schema) for schema in (self._schema, found))
        different = sorted({name for name, _, _ in (ours - theirs) | (theirs - ours)})
        if not different and (found.metadata or {}).get(b"schema_version") != self._schema.metadata[b"schema_version"]:
            different = ["schema_version"]
        if different:
            raise ValueError(f"{path} does not match {META_FILE} in {_some(different)}; {_COLLECT_AGAIN}")

    def _check_delta(self, delta: Delta, place: str) -> None:
        import torch

        odd = sorted(set(delta) ^ set(self.meta.shapes))
        if odd:
            raise ValueError(f"{place}: missing or unknown {_some(odd)}; the store holds {_some(sorted(self.meta.shapes))}")
        for name, shape in self.meta.shapes.items():
            dtype, found = delta[name].dtype, tuple(delta[name].shape)
            if (dtype, found) != (torch.float32, shape):
                raise ValueError(f"{place}: {name} is {dtype} {found}, not torch.float32 {shape}")
        _check_finite(delta, place)

    def _check_collected(self, names: Sequence[str]) -> None:
        missing = sorted(set(names) - set(self.meta.shapes))
        if missing:
            raise ValueError(
                f"the store {self.folder} holds {_some(sorted(self.meta.shapes))}, not {_some(missing)}; "
                "collect samples with collect.modules=all"
            )

    def _check_same(self, meta: StoreMeta) -> None:
        for what, mine, other in _differences(self.meta, meta):
            raise ValueError(f"the store {self.folder} was made with {what} = {mine}, not {other}; use another folder")


def _decode_meta(content: bytes) -> StoreMeta:
    document = json.loads(content)
    version = document.pop("schema_version", None)
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {version} is not the supported {SCHEMA_VERSION}")
    document["shapes"] = {name: tuple(map(operator.index, shape)) for name, shape in document["shapes"].items()}
    meta = StoreMeta(**document)
    _check_tensors(meta)
    return meta


def _check_tensors(meta: StoreMeta) -> None:
    odd = sorted(set(meta.shapes) ^ set(meta.layers))
    if odd:
        raise ValueError(f"shapes and layers must name the same tensors; only one of them has {_some(odd)}")


def _differences(mine: StoreMeta, other: StoreMeta) -> Iterator[tuple[str, Any, Any]]:
    """(what, its value here, its value there) for all that differs, as JSON shows it."""
    one, two = (json.loads(json.dumps(asdict(meta))) for meta in (mine, other))
    for name in ("model_fingerprint", "lora_fingerprint"):
        if one[name] != two[name]:
            yield name, one[name], two[name]
    for name in ("shapes", "layers", "recipe"):
        for key in one[name] | two[name]:
            if one[name].get(key) != two[name].get(key):
                yield f"{name} {key}", one[name].get(key), two[name].get(key)


def _schema(meta: StoreMeta) -> pa.Schema:
    """Columns of a client's file; a tensor is a list of its values in row-major order."""
    tensors = {name: pa.list_(_VALUE, int(np.prod(shape))) for name, shape in sorted(meta.shapes.items())}
    fields = [pa.field(name, kind, nullable=False) for name, kind in (_LABEL_COLUMNS | tensors).items()]
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION)})


def _column(tensor: torch.Tensor, kind: pa.DataType) -> pa.Array:
    """One row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(tensor.detach().cpu().reshape(-1).numpy()), type=kind)


def _tensor(column: pa.Array, shape: Sequence[int]) -> torch.Tensor:
    """The one row of a column, as memory of its own: Arrow's is read-only."""
    import torch

    return torch.from_numpy(column.flatten().to_numpy().copy()).reshape(shape)


def _check_finite(delta: Delta, place: str) -> None:
    for name, tensor in delta.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{place}: {name} holds NaN or infinity; collect the client again")


def _stack(rows: Iterator[np.ndarray], number: int, max_in_memory: int) -> np.ndarray:
    """`number` rows (d,) as one array (number, d) float32, in memory or in a file."""
    first = next(rows)
    stacked = _allocate(number, len(first), max_in_memory)
    stacked[0] = first
    for index, row in enumerate(rows, start=1):
        stacked[index] = row
    return stacked


def _allocate(rows: int, columns: int, max_in_memory: int) -> np.ndarray:
    """(rows, columns) float32 in memory, or mapped from a file without a name, which goes with the array."""
    size = rows * columns * 4
    if size <= max_in_memory:
        return np.empty((rows, columns), dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise ValueError(
                f"no room for {size} bytes of features in {tempfile.gettempdir()}: {error}; set TMPDIR to a larger disk"
            ) from error
        return np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, columns))


def _some(names: Sequence[str], shown: int = 3) -> str:
    """`a, b, c and 2 more`."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of Arrow become a ValueError with the file's name and what to do about it."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        damaged = getattr(error, "errno", None) is None
        fix = _COLLECT_AGAIN if damaged else "see to the disk and the file's permissions"
        raise ValueError(f"{path} cannot be read: {error}; {fix}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A hidden temporary name that becomes `path` when the block succeeds; nothing is left when it fails."""
    temporary = path.with_name(f".{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
