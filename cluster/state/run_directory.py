"""The run directory: everything a run leaves behind. Each file is written whole; tables of rounds grow by a file a round."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from actors.model.adapted import write_adapter
from cluster.config.loading import dump_config
from cluster.config.schema import RunConfig
from cluster.errors import CheckpointError, ConfigError
from cluster.state.growing_table import GrowingTable, encoded
from cluster.state.lease import FOLDER, Lease
from cluster.state.place import Place, is_temporary
from cluster.state.tables import GROUND_TRUTH, evaluation_table, probe_table, rounds_table
from probe.names import plain_name

_RUN_ID, _CONFIG, _GROUND_TRUTH, _ROUNDS = "run-id", "config.yaml", "ground_truth.parquet", "rounds.parquet"
_OF_THE_DISK = "lost+found"
"""Lies on top of many mounted disks."""
_BEGINNING = {FOLDER, _RUN_ID, _OF_THE_DISK}
"""What may lie in a directory before config.yaml does."""


class RunDirectory:
    """Paths and writers of one run. `config.yaml`, written last of its beginning, makes a directory one of a run."""

    def __init__(self, path: Path, *, is_new: bool) -> None:
        self.path, self._is_new, self._was_there = path, is_new, path.is_dir()
        self.go_on = f"safe-fedllm run --resume {path}"
        self._place = Place(str(path), self.go_on)
        self._rounds, self._probe_rounds = GrowingTable(self._place, _ROUNDS), GrowingTable(self._place, "probe.parquet")
        self.lease: Lease | None = None

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDirectory:
        """Make the directory, take its lease, and write run-id and config.yaml.

        What a driver left that died before config.yaml was there is in nobody's way.

        Raises:
            ConfigError: the directory holds another run or anything else, or cannot be written. CheckpointError: another driver
                begins there at this moment.
        """
        _check_vacant(path)
        directory = cls(path, is_new=True)
        try:
            with _output_writable(path):
                directory.take()
            _check_vacant(path)
        except BaseException:
            directory.release()
            directory._is_new = False  # whatever lies there is another driver's
            raise
        with _output_writable(path), directory.discarded_on_error():
            directory._replace(_RUN_ID, uuid.uuid4().hex.encode())
            directory.write_config(config)
        return directory

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """The directory of a run that began earlier; raises ConfigError when there is none. Nothing is written."""
        if not (path / _CONFIG).is_file():
            raise ConfigError(f"--resume {path} holds no run (no config.yaml); name a directory that `safe-fedllm run` wrote")
        return cls(path, is_new=False)

    def take(self) -> Lease:
        """Become the owner, before anything is written; raises CheckpointError when another driver is."""
        self.lease = Lease(self._place)
        self._place.remove_temporary()
        return self.lease

    def release(self) -> None:
        """Let another driver own the directory."""
        if self.lease is not None:
            self.lease.close()

    @property
    def run_id(self) -> str | None:
        """Tells the run's checkpoints from those of other runs; None where it was lost."""
        path = self.path / _RUN_ID
        return path.read_text() if path.is_file() else None

    @property
    def has_committed(self) -> bool:
        """Whether a round was ever committed: the tables are written right after the first checkpoint."""
        return (self.path / _ROUNDS).exists()

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove what a new run has written when the block fails, so that a run that never began leaves its name free."""
        try:
            yield
        except BaseException:
            if self._is_new:
                self.release()
                self._discard()
            raise

    def _discard(self) -> None:
        """What cannot be removed stays, so that the first error is the one that is seen."""
        for entry in list(self.path.iterdir()) if self.path.is_dir() else ():
            if entry.name == _OF_THE_DISK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()
        if not self._was_there:
            with suppress(OSError):
                self.path.rmdir()

    def write_config(self, config: RunConfig) -> None:
        """The configuration of the next round."""
        self._replace(_CONFIG, dump_config(config).encode())

    def write_ground_truth(self, client_ids: Iterable[str], malicious: Collection[str]) -> None:
        """Record which clients are malicious; only evaluation reads it."""
        rows = [{"client_id": client_id, "malicious": client_id in malicious} for client_id in client_ids]
        self._replace(_GROUND_TRUTH, encoded(pa.Table.from_pylist(rows, schema=GROUND_TRUTH)))

    def add_benign(self, client_ids: Iterable[str]) -> None:
        """Record all clients again: those that have joined since are benign."""
        rows = pq.read_table(self.path / _GROUND_TRUTH).to_pylist()
        self.write_ground_truth(client_ids, [row["client_id"] for row in rows if row["malicious"]])

    def write_rounds(self, reports: Sequence[RoundReport]) -> None:
        """Add the rounds that are not written yet; all rounds are given."""
        self._check_owner()
        self._rounds.write({report.round: partial(rounds_table, [report]) for report in reports})

    def write_evaluation(self, reports: Sequence[EvaluationReport]) -> None:
        self._replace("evaluation.parquet", encoded(evaluation_table(reports)))

    def write_probe_rounds(self, rows: Sequence[ProbeRound]) -> None:
        """Add the rounds that are not written yet; all rounds are given."""
        self._check_owner()
        self._probe_rounds.write({row.round: partial(probe_table, [row]) for row in rows})

    def write_probe(self, version: int, files: Mapping[str, bytes]) -> None:
        """Write a version of the probe; `probe.path` of another run can name its folder."""
        for name, content in files.items():
            self._replace(f"probes/v{version}/{plain_name(name)}", content)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        self._replace("summary.json", (json.dumps(summary, indent=2) + "\n").encode())

    def remove_summary(self) -> None:
        """Remove the outcome of an earlier end: the run goes on."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_adapter(self, tensors: bytes, config_json: str) -> None:
        """The final adapter in PEFT's layout."""
        with TemporaryDirectory() as folder:
            write_adapter(Path(folder), tensors, config_json)
            for path in sorted(Path(folder).iterdir()):
                self._replace(f"adapter/{path.name}", path.read_bytes())

    def write_card(self, text: str) -> None:
        """The model card, beside the adapter."""
        self._replace("adapter/README.md", text.encode())

    def read_adapter(self) -> tuple[bytes, str]:
        """The final adapter as its files hold it: adapter_model.safetensors and the text of adapter_config.json."""
        folder = self.path / "adapter"
        return (folder / "adapter_model.safetensors").read_bytes(), (folder / "adapter_config.json").read_text()

    def _replace(self, name: str, data: bytes) -> None:
        """Raises CheckpointError when it cannot be written, or another driver owns the directory."""
        self._check_owner()
        self._place.write(name, data)

    def _check_owner(self) -> None:
        if self.lease is not None:
            self.lease.check()


@contextmanager
def _output_writable(path: Path) -> Iterator[None]:
    """A directory that cannot be written is one to name otherwise: no run has begun there."""
    try:
        yield
    except CheckpointError as error:
        if isinstance(cause := error.__cause__, OSError):
            why = os.strerror(cause.errno) if cause.errno else str(cause)
            raise ConfigError(f"--output {path}: {why}; name a place with room that this user can write to") from error
        raise


def _check_vacant(path: Path) -> None:
    """Raises ConfigError when the directory holds more than the beginning of a run that died in it."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--output {path} is a file; name a new or empty directory")
    if not is_vacant(path):
        is_run = (path / _CONFIG).exists()
        what = f"another run (go on with it: --resume {path})" if is_run else "other files"
        raise ConfigError(f"--output {path} holds {what}; name a new or empty directory")


def is_vacant(path: Path) -> bool:
    """Whether a run can begin there: it is not there yet, is empty, or holds what a driver left that died as it began.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be read: {error}; name another directory") from error
    return not path.is_file() and all(name in _BEGINNING or is_temporary(name) for name in names)
