"""One round as a transaction: sample, train, score, weigh, aggregate. Nothing of it counts until the caller commits it."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors.messages import AggregatorState, AttackTask, ProbeRefresh, ProbeRound, RoundReport, TrainTask
from actors.seeding import stream
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.reporting.progress import Progress
from cluster.round.guard import guarded
from cluster.round.opening import check_opened
from cluster.round.probe_report import probe_round
from cluster.round.refresh import Refresh, reference_tasks
from cluster.round.relay import RoundCollector
from cluster.simulation.attackers import attack_task
from cluster.simulation.recipes import assign_recipes
from cluster.state.membership import Files, Roster
from cluster.state.run_state import RunState
from cluster.workers.worker_group import Crew
from defense.evidence import Source
from defense.guard import GuardState
from defense.levels import sources_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What a round changed."""

    report: RoundReport
    aggregator: AggregatorState
    guard: GuardState | None
    probe_row: ProbeRound | None
    """None at a level without a probe."""
    new_probe: Mapping[str, bytes]
    """The refreshed probe; empty when the old one stays."""


class RoundRunner:
    """Runs rounds with a crew; holds no state between them."""

    def __init__(self, config: RunConfig, sources: Sources, crew: Crew, progress: Progress) -> None:
        self._config, self._sources, self._crew, self._progress = config, sources, crew, progress

    def run(self, state: RunState) -> RoundResult:
        """The round that follows `state`, to which aggregator and probe must have been brought.

        Raises:
            LostError: an actor that the round needs is gone; restore the crew and run the round again.
            ClusterError: probe or meter cannot open the round, so that nobody could be judged.
        """
        started, index, crew = time.perf_counter(), state.rounds_done, self._crew
        clients, waiting = self._sample(index, state.roster)
        rate = self._config.learning_rate(index)
        self._progress.round_started(index, clients)
        self._progress.clients_waiting(index, waiting)
        adapter = ray.put(state.aggregator.adapter)
        quorum, num_known = self._config.clients.quorum_of(len(clients)), len(state.roster.known)
        expected = crew.aggregator.open_round.remote(index, clients, rate, quorum, num_known)
        differences = self._differences(clients)
        opened = self._open(expected, adapter)
        shadow_ids = crew.ask(expected, f"opening round {index + 1}").shadow_ids
        version, files = state.aggregator.version, state.roster.known
        tasks = [
            self._task(client_id, files[client_id], index, version, rate, shadow=client_id in shadow_ids) for client_id in clients
        ]
        recipes = assign_recipes(self._config.clients.recipes, files, self._sources.malicious)
        tasks = [replace(task, recipe=recipes[task.client_id], attack=self._attack(task.client_id, state)) for task in tasks]
        collector = self._collector()
        refreshed = collector.collect(tasks, adapter, differences, self._refresh(index, rate), rate)
        check_opened(index, opened, self._config.cluster.call_timeout_s)
        report = crew.ask(crew.aggregator.close_round.remote(), f"aggregating round {index + 1}")
        for name, meter in self._meters.items():
            report = replace(report, **{f"{name}_s": crew.ask(meter.seconds.remote(), f"closing the round of the {name}")})
        report, aggregator, guard = self._guarded(report, state.guard)
        probe_row = None
        if crew.probe is not None:
            waited = collector.refresh_wait_s
            probe_row = self._probe_round([*state.rounds, report], refreshed, waited, time.perf_counter() - started)
        return RoundResult(
            report=report,
            aggregator=aggregator,
            guard=guard,
            probe_row=probe_row,
            new_probe=refreshed.files if refreshed is not None else {},
        )

    def _open(self, expected: Any, adapter: Any) -> dict[str, Any]:
        """Open the round on probe and meters; a reference to the answer of each, which may take as long as the clients."""
        answers = {name: meter.open_round.remote(expected, adapter) for name, meter in self._meters.items()}
        if self._crew.probe is not None:
            answers["probe"] = self._crew.probe.open_round.remote(expected, adapter if "update" in self._reads else None)
        return answers

    def _guarded(self, report: RoundReport, guard: GuardState | None) -> tuple[RoundReport, AggregatorState, GuardState | None]:
        """The round as it is to be committed; where it is rolled back, the aggregator is too."""
        crew, number = self._crew, report.round + 1
        aggregator = crew.ask(crew.aggregator.state.remote(), "reading the aggregator's state")
        if guard is None or report.outcome != "aggregated":
            return report, aggregator, guard
        started = time.perf_counter()
        loss = crew.ask(crew.meters["canary"].loss.remote(aggregator.adapter), f"measuring the aggregate of round {number}")
        report = replace(report, canary_s=report.canary_s + time.perf_counter() - started)
        report, aggregator, guard = guarded(report, aggregator, guard, loss, self._config.aggregation.rule)
        if report.outcome == "rolled_back":
            crew.ask(crew.aggregator.restore.remote(aggregator), f"rolling round {number} back")
        return report, aggregator, guard

    def _sample(self, round_index: int, roster: Roster) -> tuple[list[str], list[str]]:
        """The round's clients, and those drawn for whom there is no room, each in order of id."""
        drawn = draw_clients(self._config, roster.active, round_index, self._sources.malicious)
        room = self._crew.capacity if self._crew.capacity is not None else len(drawn)
        return sorted(drawn[:room]), sorted(drawn[room:])

    def _task(
        self, client_id: str, files: Files, round_index: int, version: int, learning_rate: float, *, shadow: bool
    ) -> TrainTask:
        meta = self._crew.probe_meta
        return TrainTask(
            client_id=client_id,
            round_index=round_index,
            base_version=version,
            files=files,
            learning_rate=learning_rate,
            seed=self._config.seed,
            probe_feature=meta.feature if meta and self._reads & {"real", "shadow"} else None,
            stream_real="all" if "real" in self._reads else "last",
            shadow_learning_rate=self._config.defense.shadow.learning_rate if shadow else None,
            freeze_a=self._config.aggregation.freezes_a,
        )

    def _differences(self, clients: Sequence[str]) -> Mapping[str, Any]:
        """Client id -> reference to what corrects its gradients; empty without SCAFFOLD."""
        if not self._config.training.scaffold:
            return {}
        return {client_id: self._crew.aggregator.control_difference.remote(client_id) for client_id in clients}

    def _attack(self, client_id: str, state: RunState) -> AttackTask | None:
        return attack_task(self._config, self._sources, client_id, state.probe, self._crew.probe_meta)

    @property
    def _meters(self) -> dict[Source, Any]:
        """Those whose readings of updates a level weighs; the guard asks the canary about the aggregate only."""
        return {name: meter for name, meter in self._crew.meters.items() if name in self._reads}

    @property
    def _reads(self) -> frozenset[Source]:
        """What the levels read."""
        return sources_of(self._config.defense)

    def _refresh(self, round_index: int, rate: float) -> Refresh | None:
        """The refresh of this round's probe, when one is due."""
        every, meta = self._config.refresh_every, self._crew.probe_meta
        if not every or round_index % every:
            return None
        references = self._sources.references
        tasks = reference_tasks(
            references,
            round_index,
            feature=meta.feature,
            rate=rate,
            seed=self._config.seed,
            freeze_a=self._config.aggregation.freezes_a,
        )
        return Refresh(
            self._crew.probe,
            references,
            tasks,
            num_steps=self._config.training.steps,
            timeout_s=self._config.probe.timeout_s,
        )

    def _probe_round(self, reports: Any, refreshed: ProbeRefresh | None, refresh_wait_s: float, round_s: float) -> ProbeRound:
        answers = [self._crew.probe.close_round.remote(), self._crew.probe.meta.remote()]
        closed, meta = self._crew.ask(answers, "closing the probe's round")
        return probe_round(reports, meta.version, closed, refreshed, refresh_wait_s, round_s)

    def _collector(self) -> RoundCollector:
        return RoundCollector(
            self._crew.pool,
            self._crew.reference_pool,
            self._crew.aggregator,
            self._crew.probe,
            list(self._meters.values()),
            self._crew.attacker,
            scores_updates="update" in self._reads,
            client_timeout_s=self._config.clients.timeout_s,
            start_timeout_s=self._config.cluster.start_timeout_s,
            probe_timeout_s=self._config.probe.timeout_s,
            call_timeout_s=self._config.cluster.call_timeout_s,
            keep_all=self._config.clients.on_client_loss == "retry_round",
            on_client_done=self._progress.client_done,
            on_client_failed=self._progress.client_failed,
        )


def draw_clients(config: RunConfig, names: Sequence[str], round_index: int, malicious: Collection[str]) -> list[str]:
    """Clients of a round in the order in which they are drawn: all who take part, or a seeded `clients.per_round` of them.

    Args:
        names: Who takes part.
        malicious: Ground truth, read only where `clients.exclude_malicious` is set: then a round has the clients that it would
            have otherwise, less these. It may be left with none, and is then one without a quorum.
    """
    rng = stream(config.seed, "sampled clients", round_index)
    drawn = [names[i] for i in rng.permutation(len(names))[: config.clients.per_round]]
    return [name for name in drawn if not (config.clients.exclude_malicious and name in malicious)]
