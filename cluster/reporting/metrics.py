"""A run's metrics for Prometheus, through Ray's own metrics endpoint on every node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ray.util.metrics import Counter

from actors.messages import ClientRound, EvaluationReport, ProbeRound, RoundReport
from cluster.reporting.callback import RunCallback
from cluster.reporting.instruments import Instruments
from cluster.reporting.status import LiveStatus, Status
from cluster.state.tables import measures

_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_STATES = ("running", "done", "slow", "pending", "lost", "refused")


class Metrics(RunCallback):
    """Sets the metrics. Ray prefixes every name with `ray_`.

    The seconds of a round have four parts: `training` until the last client has ended, `refresh` until the probe is
    refitted, `scoring` for the scores and submissions that are left, and `aggregating`.
    """

    def __init__(self, instruments: Instruments, clock: Callable[[], float] = time.perf_counter) -> None:
        self._instruments, self._clock = instruments, clock
        self._status = LiveStatus("", "", self._count_clients)
        self._shown: set[str] = set()
        self._began = self._clients_ended = self._rest_s = 0.0
        counter, gauge, histogram = instruments.counter, instruments.gauge, instruments.histogram

        self._round = gauge("round", "Rounds done")
        self._rounds = counter("rounds_total", "Rounds by outcome, lost attempts among them", "outcome")
        self._round_s = histogram("round_seconds", "Seconds of a round", _SECONDS)
        self._refusals_lost = gauge("refusal_rise", "Rise of the refusals' loss, and the guard's sum, nats per token", "name")
        self._part_s = gauge("round_part_seconds", "Seconds of the last round by part", "part")
        self._train_s = histogram("train_seconds", "Seconds one client trained in a round", _SECONDS)

        self._clients = gauge("clients", "Clients of the federation by state", "state")
        self._weight = gauge("weight", "Weight of a client in its last round", "client")
        self._score = gauge("score", "P(malicious) of a client in its last round", "client")
        self._refusals = counter("refusals_total", "Clients refused, dropped or left without evidence, by reason", "reason")
        self._bytes = counter("received_bytes_total", "Bytes of clients' messages by the actor that received them", "actor")

        self._probe_version = gauge("probe_version", "Version of the probe in force")
        self._blind = gauge("probe_blind", "1 while the probe's scores do not fit its training")
        self._score_s = counter("probe_score_seconds_total", "Seconds the probe spent on clients' messages")
        self._messages = counter("probe_messages_total", "Clients' messages that the probe answered")
        self._refreshes = counter("probe_refreshes_total", "Refreshes of the probe by outcome", "outcome")
        self._refresh_s = histogram("probe_refresh_wait_seconds", "Seconds a round waited for a refresh", _SECONDS)

        self._measure = gauge("measure", "Safety and utility of the global adapter", "name")

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        self._round.set(rounds_done)
        if last is not None:
            self._show_clients(last.clients)

    def members_changed(self, client_ids: Sequence[str]) -> None:
        self._status.members_changed(client_ids)
        for client_id in self._shown.difference(client_ids):
            self._weight.drop(client=client_id)
            self._score.drop(client=client_id)
        self._shown.intersection_update(client_ids)

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._began = self._clients_ended = self._clock()
        self._status.round_started(round_index, client_ids)

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._status.clients_waiting(round_index, client_ids)

    def client_done(self, client_id: str, why: str | None = None) -> None:
        self._clients_ended = self._clock()
        self._status.client_done(client_id, why)

    def round_lost(self, round_index: int, why: str) -> None:  # noqa: ARG002 - the log has the reason
        self._rounds.inc(tags={"outcome": "lost"})

    def round_finished(self, report: RoundReport) -> None:
        self._status.round_finished(report)
        self._round.set(report.round + 1)
        self._rounds.inc(tags={"outcome": report.outcome})
        self._set_seconds(report.aggregate_s)
        measured = {"aggregated": report.refusal_rise, "preserved": report.preserved_rise, "guard_sum": report.guard_sum}
        for name, value in measured.items():
            if value is not None:
                self._refusals_lost.set(value, name=name)
        self._show_clients(report.clients)
        _add(self._bytes, sum(row.num_bytes for row in report.clients), actor="aggregator")
        for row in report.clients:
            if row.train_s is not None and 0 <= row.train_s < math.inf:  # the client reports it
                self._train_s.observe(row.train_s)
            if row.reason is not None:
                self._refusals.inc(tags={"reason": row.reason.partition(":")[0]})

    def probe_judged(self, row: ProbeRound) -> None:
        self._probe_version.set(row.version)
        self._blind.set(float(row.blind))
        _add(self._score_s, row.score_s)
        _add(self._messages, row.num_messages)
        _add(self._bytes, row.score_bytes, actor="probe")
        if row.refresh is not None:
            self._refreshes.inc(tags={"outcome": row.refresh})
        if row.refresh_wait_s is not None:
            self._refresh_s.observe(row.refresh_wait_s)
            self._part_s.set(row.refresh_wait_s, part="refresh")
            self._part_s.set(max(0.0, self._rest_s - row.refresh_wait_s), part="scoring")

    def evaluated(self, report: EvaluationReport) -> None:
        for name, value in measures(report).items():
            self._measure.set(value, name=name)

    def close(self) -> None:
        self._instruments.close()

    def _set_seconds(self, aggregate_s: float) -> None:
        """The parts of a round that has just ended; the probe's row, which follows, divides the rest into refresh and scoring."""
        ended = self._clock()
        self._rest_s = max(0.0, ended - self._clients_ended - aggregate_s)
        self._round_s.observe(ended - self._began)
        self._part_s.set(self._clients_ended - self._began, part="training")
        self._part_s.set(0.0, part="refresh")
        self._part_s.set(self._rest_s, part="scoring")
        self._part_s.set(aggregate_s, part="aggregating")

    def _show_clients(self, rows: Sequence[ClientRound]) -> None:
        for row in rows:
            self._shown.add(row.client_id)
            self._weight.set(row.weight, client=row.client_id)
            if row.last_step_probability is not None:
                self._score.set(row.last_step_probability, client=row.client_id)
            else:
                self._score.drop(client=row.client_id)

    def _count_clients(self, status: Status) -> None:
        for state in _STATES:
            self._clients.set(status["counts"].get(state, 0), state=state)


def _add(counter: Counter, value: float, **tags: str) -> None:
    """Ray's counters refuse 0."""
    if value > 0:
        counter.inc(value, tags=tags)
