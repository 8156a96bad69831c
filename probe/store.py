"""The sample store: labelled raw deltas of reference clients, as a Parquet dataset on disk.

`store.json` says what the samples were made with (`probe.store_meta`). `samples/state=<state>/<client>.parquet` holds one
reference client (`probe.client_files`).
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from probe.client_files import ClientFiles, SampleTensors
from probe.names import plain_name
from probe.samples import ReferenceLabel, Samples
from probe.store_meta import META_FILE, StoreMeta, encode_store_meta, load_store_meta, some_of

_SUFFIX = ".parquet"


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
        self._files = ClientFiles(meta)

    @classmethod
    def create_or_open(cls, folder: Path, meta: StoreMeta) -> SampleStore:
        """Open the store in `folder`, or begin one; raises ValueError when it was made with something else than `meta`."""
        if not (folder / META_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _replacing(folder / META_FILE) as temporary:
                temporary.write_text(encode_store_meta(meta))
        store = cls.open(folder)
        store.meta.check_equal(meta, folder)
        return store

    @classmethod
    def open(cls, folder: Path) -> SampleStore:
        """Open an existing store; raises ValueError as `load_store_meta` does."""
        return cls(folder, load_store_meta(folder))

    def has(self, state: str, client: str) -> bool:
        """Whether a client that started from an adapter state is in the store, with all its steps.

        Raises ValueError for a name that cannot be a file name.
        """
        return self._path(state, client).exists()

    def append(self, state: str, label: ReferenceLabel, deltas: Iterable[SampleTensors]) -> None:
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
        with _replacing(path) as temporary:
            self._files.write(temporary, label, deltas, f"state {state}, client {label.client}")

    def __len__(self) -> int:
        """Number of samples; raises ValueError as `clients` does."""
        return sum(client.num_steps for client in self._clients())

    def clients(self) -> list[tuple[str, ReferenceLabel]]:
        """(adapter state, label) of every client, sorted by state and client. The deltas are not read.

        Raises ValueError for a damaged or foreign file; names it.
        """
        return [(client.state, client.label) for client in self._clients()]

    def read(self, extract: Callable[[SampleTensors], np.ndarray], names: Sequence[str], max_in_memory: int = 1 << 30) -> Samples:
        """The feature of every sample, sorted by state, client and step.

        Args:
            extract: Makes the feature (d,) float32 of a sample from its tensors `names`. Called once per sample, in order.
            names: The tensors to read; no others are read.
            max_in_memory: Bytes of features (4 n d) above which they are mapped from a temporary file, which goes with them.

        Raises:
            ValueError: tensors that were not collected, no samples, a damaged or foreign file, a value that is not finite,
                or no room for the temporary file.
        """
        self._check_collected(names)
        clients = self._clients()
        if not clients:
            raise ValueError(f"the store {self.folder} holds no samples; collect some with `safe-fedllm probe collect`")
        features = (extract(delta) for client in clients for delta in self._files.read_deltas(client.path, names))
        steps = [client.num_steps for client in clients]
        return Samples(
            features=_stack(features, sum(steps), max_in_memory),
            labels=np.repeat([int(client.label.malicious) for client in clients], steps),
            clients=np.repeat([client.label.client for client in clients], steps),
            families=np.repeat([client.label.family for client in clients], steps),
            steps=np.concatenate([np.arange(1, num + 1) for num in steps]),
            states=np.repeat([client.state for client in clients], steps),
        )

    def final_deltas(self) -> Iterator[tuple[str, ReferenceLabel, SampleTensors]]:
        """Adapter state, label and last step's delta of every client, sorted by state and client, one at a time.

        Raises ValueError for a damaged or foreign file.
        """
        for client in self._clients():
            yield client.state, client.label, deque(self._files.read_deltas(client.path), maxlen=1)[0]

    def merge(self, other: SampleStore) -> int:
        """Copy the clients of another store that are not here; returns how many.

        Clients that both hold are compared before anything is copied. A merge that broke off can be repeated.

        Raises:
            ValueError: the other store was made with something else, a client of both has other samples or another label, or
                a file is damaged or foreign; names the field or the file.
        """
        self.meta.check_equal(other.meta, self.folder)
        new = []
        for client in other._clients():
            if self.has(client.state, client.label.client):
                self._files.check_equal(self._path(client.state, client.label.client), client.path)
            else:
                new.append(client)
        for client in new:
            self.append(client.state, client.label, other._files.read_deltas(client.path))
        return len(new)

    def _path(self, state: str, client: str) -> Path:
        for what, name in (("state", state), ("client", client)):
            try:
                plain_name(name)
            except ValueError as error:
                raise ValueError(f"{what} {error}") from error
        return self.folder / "samples" / f"state={state}" / f"{client}{_SUFFIX}"

    def _clients(self) -> list[_Client]:
        """Every client, sorted by state and name."""
        paths = (path for path in self.folder.glob(f"samples/state=*/*{_SUFFIX}") if not path.name.startswith("."))
        places = sorted((path.parent.name.removeprefix("state="), path.name.removesuffix(_SUFFIX), path) for path in paths)
        return [_Client(state, path, *self._files.read_label(path, name)) for state, name, path in places]

    def _check_collected(self, names: Sequence[str]) -> None:
        missing = sorted(set(names) - set(self.meta.shapes))
        if missing:
            raise ValueError(
                f"the store {self.folder} holds {some_of(sorted(self.meta.shapes))}, not {some_of(missing)}; "
                "collect samples with collect.modules=all"
            )


def _stack(rows: Iterator[np.ndarray], number: int, max_in_memory: int) -> np.ndarray:
    """`number` rows (d,) as one array (number, d) float32, in memory or in a file."""
    first = next(rows)
    stacked = _allocate(number, len(first), max_in_memory)
    for index, row in enumerate(chain([first], rows)):
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
