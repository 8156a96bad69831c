"""One round as a transaction: sample, train, admit, score, weigh, aggregate. Nothing of it counts until the caller commits it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.messages import AggregatorState, ProbeRefresh, ProbeRound, RoundReport, TrainTask
from actors.seeding import stream
from actors.server_data import ServerData
from actors.simulation.collusion import Colluders
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.reporting.callback import RunCallback
from cluster.round.guard import guarded, preserved
from cluster.round.local_rounds import Job, Receiver, train_all
from cluster.round.opening import check_opened
from cluster.round.probe_report import probe_round
from cluster.round.refresh import Refresh, reference_tasks
from cluster.round.relay import Relay, RelaySettings
from cluster.state.run_state import RunState
from cluster.workers.worker_group import WorkerGroup
from defense.guard import GuardState
from defense.level_bounds import referenced
from defense.levels import signals_of
from defense.signals import Signal
from probe.meta import ProbeMeta


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


class Experiment(Protocol):
    """What an experiment changes in a round (`cluster/simulation/simulation.py`); in a real federation it changes nothing."""

    @property
    def excluded(self) -> Collection[str]:
        """Clients that it leaves out of every round."""
        ...

    def tasks(
        self, plain: Sequence[TrainTask], known: Iterable[str], probe: Mapping[str, bytes], meta: ProbeMeta | None
    ) -> Sequence[TrainTask]:
        """The tasks as the clients get them."""
        ...

    def receivers(
        self, tasks: Sequence[TrainTask], adapter: ObjectRef[bytes], relay: Receiver, colluders: ActorHandle[Colluders] | None
    ) -> Mapping[str, Receiver]:
        """What receives the messages of some clients before the relay does, by client id."""
        ...


class RoundRunner:
    """Runs rounds with a worker group; holds no state between them."""

    def __init__(
        self, config: RunConfig, sources: Sources, experiment: Experiment, workers: WorkerGroup, callback: RunCallback
    ) -> None:
        self._config, self._sources, self._experiment = config, sources, experiment
        self._workers, self._callback = workers, callback

    def run(self, state: RunState) -> RoundResult:
        """The round that follows `state`, to which the server's actors must have been brought.

        Raises:
            LostError: an actor that the round needs is gone; restore the workers and run the round again.
            ClusterError: the probe or an actor with server data cannot open the round, so that nobody could be judged.
        """
        started, index, workers = time.perf_counter(), state.rounds_done, self._workers
        clients, waiting = self._sample(state)
        self._callback.round_started(index, clients)
        self._callback.clients_waiting(index, waiting)
        adapter, rate = ray.put(state.aggregator.adapter), self._config.learning_rate(index)
        quorum, num_known = self._config.clients.quorum_of(len(clients)), len(state.membership.known)
        expected = workers.aggregator.open_round.remote(index, clients, rate, quorum, num_known)
        opened = self._open(expected, adapter)
        shadow_ids = workers.ask(expected, f"opening round {index + 1}").shadow_ids
        tasks = [self._task(client_id, state, rate, shadow=client_id in shadow_ids) for client_id in clients]
        tasks = self._experiment.tasks(tasks, state.membership.known, state.probe, workers.probe_meta)
        relay, refresh = self._relay(refreshes=self._is_refresh_due(index)), self._refresh(index, rate)
        self._train(tasks, adapter, relay, refresh)
        refreshed = refresh.finish(index, rate) if refresh is not None else None
        refresh_wait_s = time.perf_counter() - relay.last_delivery
        if refresh is not None:
            relay.score_updates()
        check_opened(index, opened, self._config.cluster.call_timeout_s)
        measured = refresh.measured(refreshed) if refresh is not None and refreshed is not None else None
        closing = workers.aggregator.close_round.remote(*relay.collect(), measured)
        report = workers.ask(closing, f"aggregating round {index + 1}")
        report, aggregator, guard = self._kept_safe(self._with_measuring_s(report), state, adapter)
        return RoundResult(
            report=report,
            aggregator=aggregator,
            guard=guard,
            probe_row=self._probe_row([*state.rounds, report], refreshed, refresh_wait_s, started),
            new_probe=refreshed.files if refreshed is not None else {},
        )

    @property
    def _signals(self) -> frozenset[Signal]:
        """What the levels read."""
        return signals_of(self._config.defense)

    def _sample(self, state: RunState) -> tuple[list[str], list[str]]:
        """The round's clients, and the sampled clients for which there is no room, each in order of id."""
        drawn = draw_clients(self._config, state.membership.active, state.rounds_done, self._experiment.excluded)
        room = self._workers.capacity if self._workers.capacity is not None else len(drawn)
        return sorted(drawn[:room]), sorted(drawn[room:])

    def _open(self, expected: ObjectRef, adapter: ObjectRef[bytes]) -> dict[str, ObjectRef]:
        """Open the round on probe and actors with server data; a reference to the answer of each, which may take long."""
        answers: dict[str, ObjectRef] = {}
        for name, actor in self._measuring.items():
            answers[name] = actor.open_round.remote(expected, adapter)
        if self._workers.probe is not None:
            reads_updates = "update" in self._signals
            answers["probe"] = self._workers.probe.open_round.remote(expected, adapter if reads_updates else None)
        return answers

    @property
    def _measuring(self) -> dict[Signal, ActorHandle[ServerData]]:
        """The actors with server data whose readings a level weighs; the guard asks the canary about the aggregate only."""
        return {name: actor for name, actor in self._workers.server_data.items() if name in self._signals}

    def _task(self, client_id: str, state: RunState, learning_rate: float, *, shadow: bool) -> TrainTask:
        meta, signals = self._workers.probe_meta, self._signals
        return TrainTask(
            client_id=client_id,
            round_index=state.rounds_done,
            base_version=state.aggregator.version,
            files=self._sources.tokens.of(client_id),
            learning_rate=learning_rate,
            seed=self._config.seed,
            probe_feature=meta.feature if meta and signals & {"real", "shadow"} else None,
            stream_real="all" if "real" in signals else "last",
            shadow_learning_rate=self._config.defense.shadow.learning_rate if shadow else None,
            freeze_a=self._config.aggregation.freezes_a,
        )

    def _relay(self, *, refreshes: bool) -> Relay:
        return Relay(
            self._workers.aggregator,
            self._workers.probe,
            self._measuring,
            RelaySettings(
                probe_timeout_s=self._config.probe.timeout_s,
                call_timeout_s=self._config.cluster.call_timeout_s,
                keep_all=self._config.clients.on_client_loss == "retry_round",
            ),
            self._callback,
            scores_updates="update" in self._signals,
            holds_updates=refreshes,
        )

    def _train(self, tasks: Sequence[TrainTask], adapter: ObjectRef[bytes], relay: Relay, refresh: Refresh | None) -> None:
        """Train the clients, and with them the reference clients of a refresh, which come after all clients in the same pool."""
        workers, config = self._workers, self._config
        clients = self._jobs(tasks, adapter, relay)
        references = refresh.jobs(adapter) if refresh is not None else []
        if workers.reference_pool is workers.pool:
            jobs = [(workers.pool, [*clients, *references])]
        else:
            jobs = [(workers.pool, clients), (workers.reference_pool, references)]
        train_all(jobs, timeout_s=config.clients.timeout_s, start_timeout_s=config.cluster.start_timeout_s)

    def _jobs(self, tasks: Sequence[TrainTask], adapter: ObjectRef[bytes], relay: Relay) -> list[Job]:
        """The clients' jobs, which deliver to the relay unless an experiment stands in front of it."""
        workers, has_controls = self._workers, self._config.training.scaffold
        receivers = self._experiment.receivers(tasks, adapter, relay, workers.colluders)
        return [
            Job(
                task,
                adapter,
                receivers.get(task.client_id, relay),
                workers.aggregator.control_difference.remote(task.client_id) if has_controls else None,
            )
            for task in tasks
        ]

    def _is_refresh_due(self, round_index: int) -> bool:
        every = self._config.refresh_every
        return bool(every) and round_index % every == 0

    def _refresh(self, round_index: int, rate: float) -> Refresh | None:
        """The refresh of this round's probe, when one is due."""
        workers, config = self._workers, self._config
        if not self._is_refresh_due(round_index) or workers.probe is None or workers.probe_meta is None:
            return None
        references = self._sources.references
        tasks = reference_tasks(
            references,
            round_index,
            feature=workers.probe_meta.feature,
            rate=rate,
            seed=config.seed,
            freeze_a=config.aggregation.freezes_a,
        )
        return Refresh(
            workers.probe,
            workers.aggregator,
            [actor for name, actor in self._measuring.items() if name in referenced(config.defense, config.probe.threshold)],
            references,
            tasks,
            num_steps=config.training.steps,
            timeout_s=config.probe.timeout_s,
            keep_all=config.clients.on_client_loss == "retry_round",
        )

    def _with_measuring_s(self, report: RoundReport) -> RoundReport:
        refs = [actor.seconds.remote() for actor in self._measuring.values()]
        seconds = self._workers.ask(refs, f"reading the seconds of {' and '.join(self._measuring)}") if refs else []
        return replace(report, measuring_s=dict(zip(self._measuring, seconds, strict=True)))

    def _kept_safe(
        self, report: RoundReport, state: RunState, before: ObjectRef[bytes]
    ) -> tuple[RoundReport, AggregatorState, GuardState | None]:
        """The round as it is to be committed: mended, and where it is rolled back, the aggregator is too."""
        workers, number, defense = self._workers, report.round + 1, state.aggregator.defense
        made = aggregator = workers.ask(workers.aggregator.state.remote(), "reading the aggregator's state")
        guard = state.guard
        if report.outcome != "aggregated" or not (defense.preserves or defense.guards):
            return report, aggregator, guard
        max_steps = defense.preservation.max_steps if defense.preserves else 0
        freezes_a = self._config.aggregation.freezes_a
        mending = workers.server_data["canary"].preserve.remote(made.adapter, before, max_steps, freezes_a=freezes_a)
        found = workers.ask(mending, f"measuring the aggregate of round {number}")
        report, aggregator = preserved(report, aggregator, found)
        report = replace(report, measuring_s={**report.measuring_s, "preservation": found.seconds})
        if guard is not None:
            report, aggregator, guard = guarded(report, aggregator, guard, found.rise_after, self._config.aggregation.rule)
        if aggregator != made:
            workers.ask(workers.aggregator.restore.remote(aggregator), f"putting the adapter of round {number} in place")
        return report, aggregator, guard

    def _probe_row(
        self, reports: Sequence[RoundReport], refreshed: ProbeRefresh | None, refresh_wait_s: float, started: float
    ) -> ProbeRound | None:
        probe = self._workers.probe
        if probe is None:
            return None
        closed, meta = self._workers.ask([probe.close_round.remote(), probe.meta.remote()], "closing the probe's round")
        return probe_round(reports, meta.version, closed, refreshed, refresh_wait_s, time.perf_counter() - started)


def draw_clients(config: RunConfig, names: Sequence[str], round_index: int, excluded: Collection[str]) -> list[str]:
    """Clients of a round in the order in which they are drawn: all that take part, or a seeded `clients.per_round` of them.

    Args:
        names: The clients that take part.
        excluded: Clients that an experiment leaves out of every round. The others are those that the round would have otherwise.
            It may be left with none, and is then a round without a quorum.
    """
    rng = stream(config.seed, "sampled clients", round_index)
    drawn = [names[int(i)] for i in rng.permutation(len(names))[: config.clients.per_round]]
    return [name for name in drawn if name not in excluded]
