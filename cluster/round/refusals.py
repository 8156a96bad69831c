"""What a round's aggregate does to the server's refusals, and what follows from it before the round is committed.

The aggregate is measured first. Where it has lost much, the canary is asked about every client, and the round is closed again
(`judging.py`). What is lost then is mended (preservation), and where that fails the round is rolled back (guard).
"""

from __future__ import annotations

from dataclasses import replace

from actors.messages import AggregatorState, RefusalsLost, RoundReport
from cluster.config.schema import RunConfig
from cluster.round.guard import guarded, preserved
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

    def lost(self, underway: Underway, report: RoundReport) -> RefusalsLost | None:
        """What the aggregate of a round that was closed has lost of them; None where no level reads the canary, or there is none.

        Raises:
            LostError: as `RoundRunner.run`.
        """
        workers = self._workers
        if "canary" not in signals_of(self._config.defense) or report.outcome != "aggregated":
            return None
        asking = workers.server_data["canary"].lost.remote(underway.index, workers.aggregator.adapter.remote(), underway.adapter)
        return workers.ask(asking, f"measuring what round {report.round + 1} has lost of the refusals")

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
        mending = workers.server_data["canary"].preserve.remote(
            underway.index, made.adapter, underway.adapter, max_steps, freezes_a=freezes_a
        )
        found = workers.ask(mending, f"measuring the aggregate of round {number}")
        report, aggregator = preserved(report, aggregator, found)
        report = replace(report, measuring_s={**report.measuring_s, "preservation": found.seconds})
        if guard is not None:
            report, aggregator, guard = guarded(report, aggregator, guard, found.rise_after, self._config.aggregation.rule)
        if aggregator != made:
            workers.ask(workers.aggregator.restore.remote(aggregator), f"putting the adapter of round {number} in place")
        return report, aggregator, guard
