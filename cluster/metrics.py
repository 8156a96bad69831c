"""What a run tells Prometheus, through Ray's own metrics endpoint on every node."""

from __future__ import annotations

import time
from collections import Counter as Count
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.live_status import client_state
from cluster.progress import Progress

_SECONDS = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800]
_STATES = ("done", "slow", "pending", "lost", "refused")
_MEASURES = ("rule_score", "compliance", "over_refusal")


class Metrics(Progress):
    """Made from the same events as the display and the status. Ray prefixes every name with `ray_`."""

    def __init__(self, run: str) -> None:
        """`run`: the run's name, a label of every metric."""
        label = {"run": run}

        def make(kind, name: str, text: str, *keys: str, **options):
            metric = kind(f"safe_fedllm_{name}", description=text, tag_keys=("run", *keys), **options)
            metric.set_default_tags(label)
            return metric

        self._round = make(Gauge, "round", "Rounds done")
        self._rounds = make(Counter, "rounds_total", "Rounds by outcome, lost attempts among them", "outcome")
        self._round_s = make(Histogram, "round_seconds", "Seconds of a round", boundaries=_SECONDS)
        self._train_s = make(Histogram, "train_seconds", "Seconds one client trained in a round", boundaries=_SECONDS)
        self._refresh_s = make(
            Histogram, "probe_refresh_wait_seconds", "Seconds a round waited for a refresh", boundaries=_SECONDS
        )
        self._clients = make(Gauge, "clients", "Clients of the last round by state", "state")
        self._weight = make(Gauge, "weight", "Weight of a client in its last round", "client")
        self._score = make(Gauge, "score", "P(malicious) of a client in its last round", "client")
        self._refusals = make(Counter, "refusals_total", "Updates that were not admitted, by reason", "reason")
        self._probe_version = make(Gauge, "probe_version", "Version of the probe in force")
        self._blind = make(Gauge, "probe_blind", "1 while the probe's scores do not fit its training")
        self._measure = make(Gauge, "measure", "Safety and utility of the global adapter", "name")
        self._began = 0.0

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:  # noqa: ARG002 - counted when it ends
        self._began = time.perf_counter()

    def round_lost(self, round_index: int, why: str) -> None:  # noqa: ARG002 - the log has the reason
        self._rounds.inc(tags={"outcome": "lost"})

    def round_finished(self, report: RoundReport) -> None:
        self._round.set(report.round + 1)
        self._rounds.inc(tags={"outcome": report.outcome})
        self._round_s.observe(time.perf_counter() - self._began)
        states = Count(client_state(row.admitted, row.reason) for row in report.clients)
        for state in _STATES:
            self._clients.set(states[state], tags={"state": state})
        for row in report.clients:
            self._weight.set(row.weight, tags={"client": row.client_id})
            if row.last_step_probability is not None:
                self._score.set(row.last_step_probability, tags={"client": row.client_id})
            if row.train_s is not None:
                self._train_s.observe(row.train_s)
            if not row.admitted:
                self._refusals.inc(tags={"reason": str(row.reason).partition(":")[0]})

    def probe_judged(self, row: ProbeRound) -> None:
        self._probe_version.set(row.version)
        self._blind.set(float(row.blind))
        if row.refresh_wait_s is not None:
            self._refresh_s.observe(row.refresh_wait_s)

    def evaluated(self, report: EvaluationReport) -> None:
        for name in _MEASURES:
            if (share := getattr(report, name)) is not None:
                self._measure.set(share.value, tags={"name": name})
        for name in ("utility", "benign_loss"):
            if (value := getattr(report, name)) is not None:
                self._measure.set(value, tags={"name": name})
