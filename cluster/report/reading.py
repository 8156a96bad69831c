"""What a run directory says: a finished run's, or as much as a run that goes on has written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, as its directory holds it."""

    path: Path
    config: RunConfig
    summary: Row | None
    """summary.json; None while the run is not over."""
    clients: Sequence[Row]
    """rounds.parquet: a row per client per round."""
    evaluations: Sequence[Row]
    """evaluation.parquet without the prompts' outcomes: a row per measure and evaluation."""
    probe: Sequence[Row]
    """probe.parquet: a row per round; empty without a probe."""
    rounds: Mapping[int, Row] = field(default_factory=dict)
    """Round -> what events.jsonl says of it: bounds by level, seconds by part; empty where the log is lost."""
    attackers: frozenset[str] | None = None
    """The simulated attackers; None where nobody knows who is one: the participants are real."""

    @property
    def name(self) -> str:
        return self.config.name or self.path.resolve().name

    @property
    def client_ids(self) -> list[str]:
        """In order; simulated attackers come last."""
        return sorted({row["client_id"] for row in self.clients}, key=lambda name: (name in (self.attackers or ()), name))

    @property
    def rounds_done(self) -> int:
        return 1 + max((row["round"] for row in self.clients), default=-1)

    def measured(self, measure: str) -> list[Row]:
        """The rows of a measure, one an evaluation, in order; of utility the macro mean."""
        found = [row for row in self.evaluations if row["measure"] == measure and row["family"] is None]
        return sorted(found, key=lambda row: row["rounds_done"])


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The run directories among these; a directory of a comparison stands for all runs in it with a round.

    Raises:
        ConfigError: a place holds no run.
    """
    return [run for place in places for run in _runs_in(place)]


def _runs_in(place: Path) -> list[Path]:
    if (place / "config.yaml").is_file():
        return [place]
    found = sorted(path.parent for path in place.glob("*/rounds.parquet")) if place.is_dir() else []
    if not found:
        raise ConfigError(
            f"{place} holds no run (no config.yaml, no folder with rounds.parquet); name one that `run` or `compare` wrote"
        )
    return found


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        ConfigError: it holds no round yet, or a file in it cannot be read.
    """
    config = load_config(path / "config.yaml")
    if not (path / "rounds.parquet").exists():
        raise ConfigError(f"{path} has no committed round yet (no rounds.parquet); wait for its first checkpoint")
    try:
        return Run(
            path=path,
            config=config,
            summary=json.loads((path / "summary.json").read_text()) if (path / "summary.json").is_file() else None,
            clients=_rows(path / "rounds.parquet"),
            evaluations=_rows(path / "evaluation.parquet"),
            probe=_rows(path / "probe.parquet"),
            rounds={event["round"]: event for event in _events(path / "events.jsonl") if event.get("event") == "round"},
            attackers=known_attackers(path, config),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; is it a whole run directory of this version?") from error


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    table = pq.read_table(path)
    return table.drop_columns(["outcomes"] if "outcomes" in table.schema.names else []).to_pylist()


def _events(path: Path) -> Iterator[Row]:
    """A round that was run again is logged again, and the last line counts; a driver that was killed may leave half a line."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            yield event


def known_attackers(path: Path, config: RunConfig) -> frozenset[str] | None:
    """Of a run in the embedded world, or with simulated attackers; the file says of real participants that all are benign."""
    if not (config.is_embedded or config.clients.malicious) or not (path / "ground_truth.parquet").is_file():
        return None
    return frozenset(row["client_id"] for row in _rows(path / "ground_truth.parquet") if row["malicious"])
