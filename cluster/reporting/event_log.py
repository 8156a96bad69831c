"""What happened in a run, for machines: `events.jsonl`, a JSON object a line, in the order in which it happened.

Every line has `time` (UTC), `event` and `run`, then what the event is about: `round` counts from 0 as in rounds.parquet and
is not the number that a person is shown, `client_id` is there where one client is meant, and figures are named as in the
tables. A round that was begun again, or gone back to, is told again. Who is malicious is told nowhere, unless a simulated
attacker's training raises: then its traceback names its code.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.progress import Progress


class EventLog(Progress):
    """Appends a line per event; each is in the file when the event's call returns."""

    def __init__(self, path: Path, run: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`path` may exist: what a resumed run adds follows what is there. `run`: the run's name."""
        self._path, self._run, self._now = path, run, now
        self._state, self._waiting = "", ()
        self._round: int | None = None
        self._round_began = 0.0
        _end_last_line(path)

    def starting(self, config: RunConfig) -> None:
        clients = {"clients": config.clients.count, "steps": config.training.steps}
        self._write("starting", rounds=config.rounds, level=config.defense.level, seed=config.seed, **clients)

    def state_changed(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._write("state", state=state)

    def members_changed(self, client_ids: Sequence[str]) -> None:
        self._write("members", client_ids=list(client_ids))

    def order_carried_out(self, round_index: int, order: str) -> None:
        self._write("order", round=round_index, order=order)

    def order_refused(self, why: str) -> None:
        self._write("order_refused", why=why)

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:  # noqa: ARG002 - it was told when it ended
        self._write("resumed", round=rounds_done)

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._round, self._round_began = round_index, time.perf_counter()
        self._write("round_started", round=round_index, client_ids=list(client_ids))

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        if tuple(client_ids) != self._waiting:
            self._waiting = tuple(client_ids)
            self._write("waiting", round=round_index, client_ids=list(client_ids))

    def client_failed(self, client_id: str, traceback: str) -> None:
        self._write("client_failed", round=self._round, client_id=client_id, traceback=traceback)

    def round_lost(self, round_index: int, why: str) -> None:
        self._write("round_lost", round=round_index, why=why)

    def round_finished(self, report: RoundReport) -> None:
        figures = {**asdict(report), "round_s": time.perf_counter() - self._round_began}
        clients = figures.pop("clients")
        self._append([*(("client", row) for row in clients), ("round", figures)])

    def probe_judged(self, row: ProbeRound) -> None:
        self._write("probe", **asdict(row))

    def evaluated(self, report: EvaluationReport) -> None:
        """`round` is the last one that the adapter has been through, null for the initial adapter; realignment counts as one."""
        figures = _without_outcomes(asdict(report))
        self._write("evaluation", round=_last_round(report), **figures)

    def realigned(self, num_steps: int, seconds: float) -> None:
        self._write("realigned", steps=num_steps, seconds=seconds)

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        """`round` as in an evaluation."""
        self._write("safety_fell", round=_last_round(report), rule_score=report.rule_score.value, stop_below=bound)

    def _write(self, event: str, **fields: Any) -> None:
        self._append([(event, fields)])

    def _append(self, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        now = self._now().isoformat(timespec="milliseconds")
        lines = [_plain({"time": now, "event": event, "run": self._run, **fields}) for event, fields in events]
        with self._path.open("a", encoding="ascii") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)


def _last_round(report: EvaluationReport) -> int | None:
    return report.rounds_done - 1 if report.rounds_done else None


def _without_outcomes(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures without what came of each prompt, which evaluation.parquet has."""
    kept = {name: value for name, value in figures.items() if name != "outcomes"}
    return {name: _without_outcomes(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _end_last_line(path: Path) -> None:
    """A driver that was killed may have left half a line; what follows must not be joined to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.write(b"\n")


def _plain(value: Any) -> Any:
    """The same with null for what JSON has no number for: a client may report a loss that is not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
