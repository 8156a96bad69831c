"""The events of a run for machines: `events.jsonl`, a JSON object per line, in the order in which they happened.

Every line has `time` (UTC), `event` and `run`, then the event's own fields: `round` counts from 0 as in rounds.parquet, and not
from 1 as in the lines for a person; `client_id` is there where one client is meant; figures are named as in the tables. A round
that is run again is logged again. No line says which clients are malicious, unless a simulated attacker's training raises an
error: then its traceback names its code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.callback import RunCallback
from cluster.state.tables import Row, client_row, without_outcomes


class EventLog(RunCallback):
    """Appends a line per event, which is in the file when the event's call returns."""

    def __init__(self, path: Path, run: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`path` may exist: a resumed run appends to it. `run`: the run's name."""
        self._path, self._run, self._now = path, run, now
        self._state = ""
        self._waiting: Sequence[str] = ()
        self._round: int | None = None
        self._round_began = 0.0
        written = path.read_bytes() if path.exists() else b""
        if written and not written.endswith(b"\n"):  # the half line that a killed driver may have left; nothing is appended to it
            with path.open("ab") as file:
                file.write(b"\n")

    def starting(self, config: RunConfig) -> None:
        clients = {"clients": config.clients.count, "steps": config.training.steps}
        self._write("starting", rounds=config.rounds, level=config.defense.level, seed=config.seed, **clients)

    def data_left_out(self, what: str) -> None:
        self._write("data_left_out", what=what)

    def state_changed(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._write("state", state=state)

    def warned(self, why: str) -> None:
        self._write("warning", why=why)

    def members_changed(self, client_ids: Sequence[str]) -> None:
        self._write("members", client_ids=list(client_ids))

    def order_carried_out(self, round_index: int, order: str) -> None:
        self._write("order", round=round_index, order=order)

    def order_refused(self, why: str) -> None:
        self._write("order_refused", why=why)

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:  # noqa: ARG002 - it was logged when it ended
        self._write("resumed", round=rounds_done)

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._round, self._round_began = round_index, time.perf_counter()
        self._write("round_started", round=round_index, client_ids=list(client_ids))

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        if tuple(client_ids) != self._waiting:
            self._waiting = tuple(client_ids)
            self._write("waiting", round=round_index, client_ids=list(client_ids))

    def client_done(self, client_id: str, why: str | None = None) -> None:
        self._write("client_done", round=self._round, client_id=client_id, reason=why)

    def client_failed(self, client_id: str, traceback: str) -> None:
        self._write("client_failed", round=self._round, client_id=client_id, traceback=traceback)

    def round_lost(self, round_index: int, why: str) -> None:
        self._write("round_lost", round=round_index, why=why)

    def round_finished(self, report: RoundReport) -> None:
        figures = {**asdict(report), "round_s": time.perf_counter() - self._round_began}
        del figures["clients"]
        self._append([*(("client", client_row(client)) for client in report.clients), ("round", figures)])

    def probe_judged(self, row: ProbeRound) -> None:
        self._write("probe", **asdict(row))

    def evaluated(self, report: EvaluationReport) -> None:
        """`round` is the last one that made the adapter, null for the initial adapter; realignment counts as a round."""
        self._write("evaluation", round=_last_round(report), **asdict(report, dict_factory=without_outcomes))

    def realigned(self, num_steps: int, seconds: float) -> None:
        self._write("realigned", steps=num_steps, seconds=seconds)

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        """`round` as in an evaluation."""
        safety = report.rule_score.value if report.rule_score else None
        self._write("safety_fell", round=_last_round(report), rule_score=safety, stop_below=bound)

    def _write(self, event: str, **fields: object) -> None:
        self._append([(event, fields)])

    def _append(self, events: Sequence[tuple[str, Row]]) -> None:
        now = self._now().isoformat(timespec="milliseconds")
        lines = [_line({"time": now, "event": event, "run": self._run, **fields}) for event, fields in events]
        with self._path.open("a", encoding="ascii") as file:
            file.writelines(lines)


def _last_round(report: EvaluationReport) -> int | None:
    return report.rounds_done - 1 if report.rounds_done else None


def _line(fields: Row) -> str:
    """JSON with null for floats that JSON does not have: a client may report a loss that is not finite."""
    plain = json.loads(json.dumps(fields), parse_constant=lambda _: None)
    return json.dumps(plain, allow_nan=False) + "\n"
