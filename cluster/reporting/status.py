"""The status that a live run publishes, made from its events, and that status as a table for a person."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypedDict

from rich.table import Table

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.callback import RunCallback
from cluster.state.tables import measures

Order = tuple[str, str | int | None]
"""Verb (scale, pause, resume, stop or set) and value."""
_CLIENTS_SHOWN = 12
_ENDS_SHOWN = 100
"""Clients' ends that a round publishes, at least: each status has all clients, so one for each end would cost their square."""


class Status(TypedDict):
    """Plain data, also as JSON."""

    name: str
    directory: str
    state: str
    """As in `RunCallback.state_changed`."""
    round: int
    """The round under way, counted from 1; 0 before the first."""
    rounds: int
    """Rounds that the run will have."""
    clients: dict[str, str]
    """Client id -> running, done, slow, pending, lost or refused."""
    counts: dict[str, int]
    """State -> number of clients."""
    weights: dict[str, float]
    """Client id -> its weight in the last round."""
    outcome: str | None
    """Of the last round."""
    probe_version: int | None
    measures: dict[str, float | None]
    """Rule score, compliance and utility of the newest evaluation, and `rounds_done`, after which it was made."""
    round_s: float | None
    """Seconds of the last round."""
    updates_per_s: float | None
    orders: list[Order]
    """Orders that wait for the end of the round."""


def first_status(name: str, directory: str = "") -> Status:
    """The status of a run that has not started."""
    return {
        "name": name,
        "directory": directory,
        "state": "starting",
        "round": 0,
        "rounds": 0,
        "clients": {},
        "counts": {},
        "weights": {},
        "outcome": None,
        "probe_version": None,
        "measures": {},
        "round_s": None,
        "updates_per_s": None,
        "orders": [],
    }


class LiveStatus(RunCallback):
    """Keeps the newest status and publishes it after every event that changes it; of many clients' ends, some of them."""

    def __init__(self, name: str, directory: str, publish: Callable[[Status], None]) -> None:
        self._publish, self._status, self._round_began = publish, first_status(name, directory), 0.0
        self._num_training = self._num_done = 0

    def starting(self, config: RunConfig) -> None:
        self._status["rounds"] = config.rounds
        self._show()

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        self._status["round"] = rounds_done
        self._status["weights"] = _weights(last) if last else {}
        self._show()

    def state_changed(self, state: str) -> None:
        if state != self._status["state"]:
            self._status["state"] = state
            self._show()

    def members_changed(self, client_ids: Sequence[str]) -> None:
        known = self._status["clients"]
        self._status["clients"] = {client_id: known.get(client_id, "pending") for client_id in client_ids}
        self._show()

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._round_began, self._num_training, self._num_done = time.perf_counter(), len(client_ids), 0
        self._status["round"] = round_index + 1
        self._show_states(dict.fromkeys(client_ids, "running"))

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:  # noqa: ARG002 - round_started had it
        self._show_states(dict.fromkeys(client_ids, "pending"))

    def client_done(self, client_id: str) -> None:
        if self._status["clients"].get(client_id) != "running":
            return
        self._status["clients"][client_id] = "done"
        self._num_done += 1
        if self._num_done % max(1, self._num_training // _ENDS_SHOWN) == 0:
            self._show()

    def round_finished(self, report: RoundReport) -> None:
        seconds = time.perf_counter() - self._round_began
        self._status["weights"], self._status["outcome"] = _weights(report), report.outcome
        self._status["round_s"] = seconds
        self._status["updates_per_s"] = sum(row.admitted for row in report.clients) / seconds
        self._show_states({row.client_id: client_state(row.admitted, row.reason) for row in report.clients})

    def probe_judged(self, row: ProbeRound) -> None:
        self._status["probe_version"] = row.version
        self._show()

    def evaluated(self, report: EvaluationReport) -> None:
        values = {name: value for name, value in measures(report).items() if name in ("rule_score", "compliance")}
        self._status["measures"] = {"rounds_done": report.rounds_done, **values, "utility": report.utility}
        self._show()

    def _show_states(self, states: dict[str, str]) -> None:
        """`states` are those of some clients; the others keep theirs, and those that no longer take part are left out."""
        self._status["clients"] = {name: states.get(name, state) for name, state in self._status["clients"].items()}
        self._show()

    def _show(self) -> None:
        clients = dict(self._status["clients"])
        self._publish({**self._status, "clients": clients, "counts": dict(Counter(clients.values()))})


def client_state(admitted: bool, reason: str | None) -> str:
    """What became of a client in its last round: done, slow, pending, lost or refused."""
    states = {"late": "slow", "pending": "pending", "client_lost": "lost"}
    return "done" if admitted else states.get((reason or "").partition(":")[0], "refused")


def _weights(report: RoundReport) -> dict[str, float]:
    return {row.client_id: row.weight for row in report.clients}


def status_table(status: Status) -> Table:
    """A row per fact, for a person."""
    table = Table(title=f"{status['name']}: {status['state']}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    found = {name: value for name, value in status["measures"].items() if name != "rounds_done" and value is not None}
    figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    rows = {
        "round": f"{status['round']} of {status['rounds']}" + (f", last {status['outcome']}" if status["outcome"] else ""),
        "clients": ", ".join(f"{count} {state}" for state, count in sorted(status["counts"].items())),
        "not in the last round": _some([f"{c} {s}" for c, s in status["clients"].items() if s not in ("running", "done")]),
        "weights": _some([f"{client} {weight:.2f}" for client, weight in status["weights"].items()]),
        "probe version": str(status["probe_version"] or ""),
        "measured": f"after {status['measures']['rounds_done']} rounds: {figures}" if found else "",
        "rates": f"{status['round_s']:.1f} s a round, {status['updates_per_s']:.2f} updates/s" if status["round_s"] else "",
        "waiting orders": ", ".join(f"{verb} {'' if value is None else value}".strip() for verb, value in status["orders"]),
        "directory": status["directory"],
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def _some(parts: list[str]) -> str:
    more = f" and {len(parts) - _CLIENTS_SHOWN} more" if len(parts) > _CLIENTS_SHOWN else ""
    return ", ".join(parts[:_CLIENTS_SHOWN]) + more
