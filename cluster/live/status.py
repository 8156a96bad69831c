"""What a run publishes about itself while it goes on, made from the same events that the progress display shows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.progress import Progress

_LATE, _PENDING, _LOST = "late:", "pending:", "client_lost:"


class LiveStatus(Progress):
    """Keeps the newest status as plain data and publishes it after every event."""

    def __init__(self, name: str, directory: str, publish: Callable[[dict[str, Any]], None]) -> None:
        self._publish = publish
        self._round_began = 0.0
        self._data: dict[str, Any] = {
            "name": name,
            "directory": directory,
            "state": "starting",
            "round": 0,
            "rounds": 0,
            "clients": {},
            "weights": {},
            "outcome": None,
            "probe_version": None,
            "measures": {},
            "round_s": None,
            "updates_per_s": None,
        }

    def starting(self, config: RunConfig) -> None:
        self._update(rounds=config.rounds)

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        self._update(round=rounds_done, weights=_weights(last) if last else {})

    def state_changed(self, state: str) -> None:
        if state != self._data["state"]:
            self._update(state=state)

    def members_changed(self, client_ids: Sequence[str]) -> None:
        known = self._data["clients"]
        self._update(clients={client_id: known.get(client_id, "pending") for client_id in client_ids})

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._round_began = time.perf_counter()
        now = {client_id: "running" if client_id in client_ids else state for client_id, state in self._data["clients"].items()}
        self._update(round=round_index + 1, clients=now)

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:  # noqa: ARG002 - round_started told it
        waiting = dict.fromkeys(client_ids, "pending")
        self._update(clients={client_id: waiting.get(client_id, state) for client_id, state in self._data["clients"].items()})

    def client_done(self, client_id: str) -> None:
        if self._data["clients"].get(client_id) == "running":
            self._update(clients={**self._data["clients"], client_id: "done"})

    def round_finished(self, report: RoundReport) -> None:
        seconds = time.perf_counter() - self._round_began
        states = {row.client_id: client_state(row.admitted, row.reason) for row in report.clients}
        self._update(
            clients={client_id: states.get(client_id, state) for client_id, state in self._data["clients"].items()},
            weights=_weights(report),
            outcome=report.outcome,
            round_s=seconds,
            updates_per_s=sum(row.admitted for row in report.clients) / seconds,
        )

    def probe_judged(self, row: ProbeRound) -> None:
        self._update(probe_version=row.version)

    def evaluated(self, report: EvaluationReport) -> None:
        shares = {name: getattr(report, name) for name in ("rule_score", "compliance")}
        values = {name: share.value for name, share in shares.items() if share is not None}
        self._update(measures={"rounds_done": report.rounds_done, **values, "utility": report.utility})

    def _update(self, **fields: Any) -> None:
        self._data = {**self._data, **fields}
        self._publish({**self._data, "counts": dict(Counter(self._data["clients"].values()))})


def client_state(admitted: bool, reason: str | None) -> str:
    """What became of a client in its last round: done, slow, pending, lost or refused."""
    if admitted:
        return "done"
    for prefix, state in ((_LATE, "slow"), (_PENDING, "pending"), (_LOST, "lost")):
        if reason is not None and reason.startswith(prefix):
            return state
    return "refused"


def _weights(report: RoundReport) -> dict[str, float]:
    return {row.client_id: row.weight for row in report.clients}
