"""One round as a transaction: sample, train, admit, score, weigh, aggregate. Nothing of it counts until the caller commits it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from actors.messages import (
    AggregatorState,
    ProbeRound,
    RoundReport,
    TrainTask,
)
from actors.server_data import ServerData
from actors.simulation.collusion import Colluders
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.reporting.callback import RunCallback
from cluster.round.judging import Judged, Judging
from cluster.round.local_rounds import Job, Receiver, train_all
from cluster.round.opening import check_opened
from cluster.round.probe_report import probe_round
from cluster.round.refresh import Refresh
from cluster.round.refusals import ASKED_LATER, RefusalsOfRounds
from cluster.round.relay import Relay, RelaySettings
from cluster.round.sampling import draw_clients, with_unable
from cluster.round.underway import Underway
from cluster.state.run_state import RunState
from cluster.workers.worker_group import WorkerGroup
from defense.guard import GuardState
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
        clients, waiting, unable = self._sample(state)
        self._callback.round_started(index, clients)
        self._callback.clients_waiting(index, waiting)
        rate, quorum = self._config.learning_rate(index), self._config.clients.quorum_of(len(clients))
        expected = workers.aggregator.open_round.remote(index, clients, rate, quorum, len(state.membership.known))
        underway = Underway(index=index, rate=rate, expected=expected, adapter=ray.put(state.aggregator.adapter))
        judging, refusals = Judging(self._config, self._sources, workers), RefusalsOfRounds(self._config, workers)
        due = judging.due(state, rate)
        opened = self._open(underway) | (judging.open(underway) if due is not None else {})
        shadow_ids = workers.ask(expected, f"opening round {index + 1}").shadow_ids
        tasks = [self._task(client_id, state, rate, shadow=client_id in shadow_ids) for client_id in clients]
        tasks = self._experiment.tasks(tasks, state.membership.known, state.probe, workers.probe_meta)
        relay = self._relay(holds_updates=due is not None)
        self._train(tasks, underway.adapter, relay, due)
        check_opened(index, opened, self._config.cluster.call_timeout_s)
        judged = judging.judged(underway, relay, due)
        report = self._closed(judged, index, unasked=self._signals & ASKED_LATER)
        if (lost := refusals.lost(underway, report)) is not None:
            seconds = lost.seconds
            if lost.is_serious:
                judged = judging.thorough(underway, relay, judged)
                workers.ask(workers.aggregator.reopen_round.remote(), f"reopening round {index + 1}")
                report = self._closed(judged, index)
                seconds += workers.ask(workers.server_data["canary"].seconds.remote(), "reading the seconds of the canary")
            report = replace(report, measuring_s={**report.measuring_s, "canary": seconds})
        report, aggregator, guard = refusals.kept(underway, report, state)
        report = with_unable(report, unable)
        return RoundResult(
            report=report,
            aggregator=aggregator,
            guard=guard,
            probe_row=self._probe_row([*state.rounds, report], judged, started),
            new_probe=judged.refreshed.files if judged.refreshed is not None else {},
        )

    @property
    def _signals(self) -> frozenset[Signal]:
        """What the levels read."""
        return signals_of(self._config.defense)

    def _sample(self, state: RunState) -> tuple[list[str], list[str], list[str]]:
        """The round's clients, the sampled clients for which there is no room, and those that have nothing to train on, which
        are not sampled; each in order of id."""
        active = state.membership.active
        able = [client_id for client_id in active if self._sources.tokens.can_train(client_id)]
        drawn = draw_clients(self._config, able, state.rounds_done, self._experiment.excluded)
        room = self._workers.capacity if self._workers.capacity is not None else len(drawn)
        return sorted(drawn[:room]), sorted(drawn[room:]), sorted(set(active) - set(able))

    def _open(self, underway: Underway) -> dict[str, ObjectRef]:
        """Open the round on probe and actors with server data; a reference to the answer of each, which may take long."""
        given = underway.expected, underway.adapter
        answers: dict[str, ObjectRef] = {name: actor.open_round.remote(*given) for name, actor in self._measuring.items()}
        if self._workers.probe is not None:
            reads_updates = "update" in self._signals
            answers["probe"] = self._workers.probe.open_round.remote(
                underway.expected, underway.adapter if reads_updates else None
            )
        return answers

    @property
    def _measuring(self) -> dict[Signal, ActorHandle[ServerData]]:
        """The actors with server data that measure every client's update, for a level to weigh."""
        wanted = self._signals - ASKED_LATER
        return {name: actor for name, actor in self._workers.server_data.items() if name in wanted}

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

    def _relay(self, *, holds_updates: bool) -> Relay:
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
            holds_updates=holds_updates,
        )

    def _train(self, tasks: Sequence[TrainTask], adapter: ObjectRef[bytes], relay: Relay, refresh: Refresh | None) -> None:
        """Train the clients, and with them the reference clients of a refresh, which come after all clients in the same pool."""
        workers, config = self._workers, self._config
        remote_ids = config.gateway.remote
        jobs_of_all = self._jobs(tasks, adapter, relay)
        clients = [job for job in jobs_of_all if job.task.client_id not in remote_ids]
        remote = [job for job in jobs_of_all if job.task.client_id in remote_ids]
        references = refresh.jobs(adapter) if refresh is not None else []
        if workers.reference_pool is workers.pool:
            jobs = [(workers.pool, [*clients, *references])]
        else:
            jobs = [(workers.pool, clients), (workers.reference_pool, references)]
        if workers.remote_pool is not None:
            jobs.append((workers.remote_pool, remote))
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

    def _closed(self, judged: Judged, index: int, unasked: Iterable[Signal] = ()) -> RoundReport:
        """What the aggregator makes of the round."""
        aggregator = self._workers.aggregator
        closing = aggregator.close_round.remote(judged.evidence, judged.absent, judged.references, sorted(unasked))
        return self._with_measuring_s(self._workers.ask(closing, f"aggregating round {index + 1}"))

    def _with_measuring_s(self, report: RoundReport) -> RoundReport:
        refs = [actor.seconds.remote() for actor in self._measuring.values()]
        seconds = self._workers.ask(refs, f"reading the seconds of {' and '.join(self._measuring)}") if refs else []
        return replace(report, measuring_s=dict(zip(self._measuring, seconds, strict=True)))

    def _probe_row(self, reports: Sequence[RoundReport], judged: Judged, started: float) -> ProbeRound | None:
        probe = self._workers.probe
        if probe is None:
            return None
        closed, meta = self._workers.ask([probe.close_round.remote(), probe.meta.remote()], "closing the probe's round")
        round_s = time.perf_counter() - started
        return probe_round(reports, meta.version, closed, judged.refreshed, judged.wait_s, round_s)
