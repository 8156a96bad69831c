"""The run directory: everything a run leaves behind, each file replaced whole."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from actors.model import write_adapter
from cluster.config.loading import dump_config
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.state.tables import GROUND_TRUTH, evaluation_table, probe_table, rounds_table

_RUN_ID, _GROUND_TRUTH = "run-id", "ground_truth.parquet"


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: where it lies and what came out."""

    path: Path
    summary: dict[str, Any]

    @property
    def rounds(self) -> pa.Table:
        """A row per client per round."""
        return pq.read_table(self.path / "rounds.parquet")

    @property
    def evaluation(self) -> pa.Table:
        """A row per measure and evaluation."""
        return pq.read_table(self.path / "evaluation.parquet")


class RunDirectory:
    """Paths and writers of one run."""

    def __init__(self, path: Path, *, is_new: bool) -> None:
        self.path, self._is_new = path, is_new

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDirectory:
        """Create the directory and write config.yaml and run-id.

        Raises:
            ConfigError: the directory holds another run or anything else.
        """
        if path.is_dir() and any(path.iterdir()):
            is_run = (path / "config.yaml").exists()
            what = f"another run (go on with it: --resume {path})" if is_run else "other files"
            raise ConfigError(f"--output {path} holds {what}; name a new or empty directory")
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--output {path} is a file; name a new or empty directory")
        path.mkdir(parents=True, exist_ok=True)
        directory = cls(path, is_new=True)
        directory._replace(_RUN_ID, uuid.uuid4().hex.encode())
        directory._replace("config.yaml", dump_config(config).encode())
        return directory

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """The directory of a run that began earlier; raises ConfigError when there is none."""
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"--resume {path} holds no run (no config.yaml); name a directory that `safe-fedllm run` wrote")
        return cls(path, is_new=False)

    @property
    def run_id(self) -> str | None:
        """Tells the run's checkpoints from those of other runs; None for a run that began before runs had an id."""
        path = self.path / _RUN_ID
        return path.read_text() if path.is_file() else None

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove a new directory again when the block fails, so that a run that never began leaves its name free."""
        try:
            yield
        except BaseException:
            if self._is_new:
                shutil.rmtree(self.path)
            raise

    def write_ground_truth(self, client_ids: Iterable[str], malicious: Collection[str]) -> None:
        """Record which clients are malicious; only evaluation reads it."""
        rows = [{"client_id": client_id, "malicious": client_id in malicious} for client_id in client_ids]
        self._replace_table(_GROUND_TRUTH, pa.Table.from_pylist(rows, schema=GROUND_TRUTH))

    def add_benign(self, client_ids: Iterable[str]) -> None:
        """Record all clients again: those that have joined since are benign."""
        rows = pq.read_table(self.path / _GROUND_TRUTH).to_pylist()
        self.write_ground_truth(client_ids, [row["client_id"] for row in rows if row["malicious"]])

    def write_rounds(self, reports: Sequence[RoundReport]) -> None:
        self._replace_table("rounds.parquet", rounds_table(reports))

    def write_evaluation(self, reports: Sequence[EvaluationReport]) -> None:
        self._replace_table("evaluation.parquet", evaluation_table(reports))

    def write_probe_rounds(self, rows: Sequence[ProbeRound]) -> None:
        self._replace_table("probe.parquet", probe_table(rows))

    def write_probe(self, version: int, files: Mapping[str, bytes]) -> None:
        """Write a version of the probe; `probe.path` of another run can name its folder."""
        folder = self.path / "probes" / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)  # a round that was killed before its commit is run again
        for name, content in files.items():
            (folder / name).write_bytes(content)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        self._replace("summary.json", (json.dumps(summary, indent=2) + "\n").encode())

    def remove_summary(self) -> None:
        """Remove the outcome of an earlier end: the run goes on."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_adapter(self, tensors: bytes, config_json: str) -> None:
        """The final adapter in PEFT's layout."""
        write_adapter(self.path / "adapter", tensors, config_json)

    def read_adapter(self) -> tuple[bytes, str]:
        """The final adapter as its files hold it: adapter_model.safetensors and the text of adapter_config.json."""
        folder = self.path / "adapter"
        return (folder / "adapter_model.safetensors").read_bytes(), (folder / "adapter_config.json").read_text()

    def _replace_table(self, name: str, table: pa.Table) -> None:
        temporary = self.path / f".{name}.tmp"
        pq.write_table(table, temporary)
        temporary.replace(self.path / name)

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_bytes(data)
        temporary.replace(self.path / name)
