"""The status that a live run publishes, made from its events, and that status as a table for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TypedDict

from rich.table import Table
from rich.text import Text

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.callback import RunCallback
from cluster.reporting.console import plain
from cluster.state.tables import measures

Order = tuple[str, str | int | None]
"""Verb (scale, pause, resume, stop or set) and value."""
_CLIENTS_SHOWN = 12
_ENDS_SHOWN = 100
"""Clients' ends that a round publishes, at least: each status has all clients, so one for each end would cost their square."""
_NAMES = {"rule_score": "safety"}
_STATES = {"running": "training", "slow": "late", "pending": "no turn or room yet", "lost": "lost", "refused": "not admitted"}
"""State -> what a person reads."""


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
    """Client id -> running, done, slow, pending, lost or refused; of clients that are not in the round under way, as their last
    one ended."""
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
    expected_end: str | None
    """When the last round should be over if rounds go on as in the median so far; UTC, ISO 8601."""
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
        "expected_end": None,
        "updates_per_s": None,
        "orders": [],
    }


class LiveStatus(RunCallback):
    """Keeps the newest status and publishes it after every event that changes it; of many clients' ends, some of them."""

    def __init__(
        self,
        name: str,
        directory: str,
        publish: Callable[[Status], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._publish, self._status, self._now = publish, first_status(name, directory), now
        self._round_began, self._round_seconds = now(), list[float]()
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
        self._round_began, self._num_training, self._num_done = self._now(), len(client_ids), 0
        self._status["round"] = round_index + 1
        self._show_states(dict.fromkeys(client_ids, "running"))

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:  # noqa: ARG002 - round_started had it
        self._show_states(dict.fromkeys(client_ids, "pending"))

    def client_done(self, client_id: str, why: str | None = None) -> None:
        if self._status["clients"].get(client_id) not in ("running", "pending"):
            return
        self._status["clients"][client_id] = client_state(why is None, why)
        self._num_done += 1
        if self._num_done % max(1, self._num_training // _ENDS_SHOWN) == 0:
            self._show()

    def round_finished(self, report: RoundReport) -> None:
        now = self._now()
        seconds = (now - self._round_began).total_seconds()
        self._round_seconds.append(seconds)
        left_s = median(self._round_seconds) * max(0, self._status["rounds"] - report.round - 1)
        self._status["expected_end"] = (now + timedelta(seconds=left_s)).isoformat(timespec="seconds")
        self._status["weights"], self._status["outcome"] = _weights(report), report.outcome
        self._status["round_s"] = seconds
        self._status["updates_per_s"] = sum(row.admitted for row in report.clients) / seconds if seconds else None
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
    title = Text(plain(f"{status['name']}: {status['state']}"))  # text, whoever renders it: a notebook knows no console of ours
    table = Table(title=title, title_style="italic", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in status_rows(status).items():
        table.add_row(name, Text(plain(text)))
    return table


def status_rows(status: Status) -> dict[str, str]:
    """What -> in words; what there is nothing to say of is left out."""
    measured, rate = status["measures"], status["updates_per_s"]
    found = {_NAMES.get(name, name): value for name, value in measured.items() if name != "rounds_done" and value is not None}
    figures = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    rows = {
        "round": f"{status['round']} of {status['rounds']}" + (f", last {status['outcome']}" if status["outcome"] else ""),
        "delivered": f"{len(in_state(status, 'done'))} of {len(status['clients'])} clients" if status["clients"] else "",
        **{text: _some(in_state(status, state)) for state, text in _STATES.items()},
        "weights": _some([f"{client} {weight:.2f}" for client, weight in status["weights"].items()]),
        "probe version": str(status["probe_version"] or ""),
        "measured": f"after {measured['rounds_done']} rounds: {figures}" if found else "",
        "rates": f"{status['round_s']:.1f} s a round, {rate:.2f} updates/s" if status["round_s"] and rate is not None else "",
        "expected end": _local(status["expected_end"]) if status["expected_end"] and status["state"] == "running" else "",
        "waiting orders": ", ".join(f"{verb} {'' if value is None else value}".strip() for verb, value in status["orders"]),
        "directory": status["directory"],
    }
    return {name: text for name, text in rows.items() if text}


def in_state(status: Status, state: str) -> list[str]:
    """The clients in a state."""
    return [client_id for client_id, own in status["clients"].items() if own == state]


def _local(moment: str) -> str:
    """A moment by this machine's clock."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _some(parts: list[str]) -> str:
    more = f" and {len(parts) - _CLIENTS_SHOWN} more" if len(parts) > _CLIENTS_SHOWN else ""
    return ", ".join(parts[:_CLIENTS_SHOWN]) + more
