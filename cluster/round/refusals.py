"""What a round's aggregate does to the server's refusals, and what follows from it before the round is committed.

The aggregate is measured first. Where it has lost refusals the canary is asked about every client, and the round is weighed
again. What is still lost then is mended (preservation), and where that fails the round is rolled back (guard).
"""

from __future__ import annotations

from dataclasses import replace

from actors.messages import AggregatorState, RoundReport
from cluster.config.schema import RunConfig
from cluster.round.guard import guarded, preserved
from cluster.round.opening import check_opened
from cluster.round.relay import Relay
from cluster.round.underway import Underway
from cluster.state.run_state import RunState
from cluster.workers.worker_group import WorkerGroup
from defense.guard import GuardState
from defense.levels import signals_of
from defense.signals import Signal

ASKED_LATER: frozenset[Signal] = frozenset({"canary"})
"""Signals that a round asks about its clients only where the aggregate gives reason to."""


class RefusalsOfRounds:
    """Keeps the refusals through rounds, with a worker group; holds no state between rounds."""

    def __init__(self, config: RunConfig, workers: WorkerGroup) -> None:
        self._config, self._workers = config, workers

    def weighed_again(self, underway: Underway, relay: Relay, report: RoundReport) -> RoundReport:
        """The round, weighed by what the canary says of each client too, where the aggregate has lost refusals for certain.

        Raises:
            LostError, ClusterError: as `RoundRunner.run`.
        """
        workers, number = self._workers, report.round + 1
        if "canary" not in signals_of(self._config.defense) or report.outcome != "aggregated":
            return report
        canary = workers.server_data["canary"]
        asking = canary.lost.remote(workers.aggregator.adapter.remote(), underway.adapter)
        lost = workers.ask(asking, f"measuring what round {number} has lost of the refusals")
        seconds = lost.seconds
        if lost.is_certain:
            opening = {"canary": canary.open_round.remote(underway.expected, underway.adapter)}
            check_opened(report.round, opening, self._config.cluster.call_timeout_s)
            readings = relay.read("canary", canary)
            again = workers.ask(workers.aggregator.weigh_again.remote(readings), f"aggregating round {number} again")
            report = replace(again, measuring_s=report.measuring_s, aggregate_s=report.aggregate_s + again.aggregate_s)
            seconds += workers.ask(canary.seconds.remote(), "reading the seconds of the canary")
        return replace(report, measuring_s={**report.measuring_s, "canary": seconds})

    def kept(
        self, underway: Underway, report: RoundReport, state: RunState
    ) -> tuple[RoundReport, AggregatorState, GuardState | None]:
        """The round as it is to be committed: mended, and where it is rolled back, the aggregator is too.

        Args:
            state: Before the round.

        Raises:
            LostError: as `RoundRunner.run`.
        """
        workers, number, defense = self._workers, report.round + 1, state.aggregator.defense
        made = aggregator = workers.ask(workers.aggregator.state.remote(), "reading the aggregator's state")
        guard = state.guard
        if report.outcome != "aggregated" or not (defense.preserves or defense.guards):
            return report, aggregator, guard
        max_steps = defense.preservation.max_steps if defense.preserves else 0
        freezes_a = self._config.aggregation.freezes_a
        mending = workers.server_data["canary"].preserve.remote(made.adapter, underway.adapter, max_steps, freezes_a=freezes_a)
        found = workers.ask(mending, f"measuring the aggregate of round {number}")
        report, aggregator = preserved(report, aggregator, found)
        report = replace(report, measuring_s={**report.measuring_s, "preservation": found.seconds})
        if guard is not None:
            report, aggregator, guard = guarded(report, aggregator, guard, found.rise_after, self._config.aggregation.rule)
        if aggregator != made:
            workers.ask(workers.aggregator.restore.remote(aggregator), f"putting the adapter of round {number} in place")
        return report, aggregator, guard
