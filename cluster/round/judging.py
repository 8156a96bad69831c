"""From what the clients delivered to what the aggregator closes the round with: scores that leave no doubt.

The probe judges every update. Where it leaves open what a client is, reference clients train from this round's adapter, and new
bounds follow from them; a probe that does not tell them apart is refitted and judges all updates again. With
`probe.refresh_every` set, or while nothing is known of reference clients, these train beside the clients instead. The canary is
asked about each client once the round's aggregate has lost refusals.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ray import ObjectRef
from ray.actor import ActorHandle

from actors.messages import ClientEvidence, MeasuredReferences, ProbeRefresh
from actors.server_data import ServerData
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.round.local_rounds import train_all
from cluster.round.opening import check_opened
from cluster.round.refresh import Refresh, reference_tasks
from cluster.round.relay import Relay
from cluster.round.underway import Underway
from cluster.state.run_state import RunState
from cluster.workers.worker_group import WorkerGroup
from defense.level_bounds import rate, referenced, unmeasured
from defense.levels import signals_of
from defense.signals import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a round is closed with."""

    evidence: Sequence[ClientEvidence]
    absent: Mapping[str, str]
    """Client id -> why a sampled client delivered nothing."""
    refreshed: ProbeRefresh | None
    """None: the round did not refresh the probe."""
    references: MeasuredReferences | None
    """What the refresh measured."""
    wait_s: float
    """Seconds from the last client's update until the probe that judges was there."""


class Judging:
    """Has the updates of rounds judged, with a worker group; holds no state between rounds."""

    def __init__(self, config: RunConfig, sources: Sources, workers: WorkerGroup) -> None:
        self._config, self._sources, self._workers = config, sources, workers

    def due(self, state: RunState, learning_rate: float) -> Refresh | None:
        """The refresh that goes on beside the clients whatever they send; None: there is none."""
        config, every = self._config, self._config.probe.refresh_every
        if not config.refreshes:
            return None
        if every is None:
            is_due = bool(unmeasured(state.aggregator.defense, state.aggregator.references, config.probe.threshold))
        else:
            is_due = state.rounds_done % every == 0
        return self._refresh(state.rounds_done, learning_rate) if is_due else None

    def open(self, underway: Underway) -> dict[str, ObjectRef]:
        """Open the round on the actors that measure reference clients: name -> its answer, which `check_opened` reads."""
        return {name: actor.open_round.remote(underway.expected, underway.adapter) for name, actor in self._measuring.items()}

    def judged(self, underway: Underway, relay: Relay, due: Refresh | None) -> Judged:
        """The evidence on every client of a round whose clients have ended.

        Args:
            due: The refresh whose reference clients have ended too.

        Raises:
            LostError, ClusterError: as `RoundRunner.run`.
        """
        if due is not None:
            return self._judged(underway, relay, due)
        judged = self._judged(underway, relay, None)
        if not (doubtful := self._in_doubt(judged.evidence)):
            return judged
        return self._judged_again(underway, relay, f"{', '.join(doubtful[:3])}{' and others' * (len(doubtful) > 3)} in doubt")

    def thorough(self, underway: Underway, relay: Relay, judged: Judged) -> Judged:
        """What the round is closed with once its aggregate has lost refusals: with what the canary says of each client.

        How far an honest client raises the refusals' loss follows the learning rate and the adapter, so the canary judges by
        reference clients of this round, unless a key says when these train.

        Raises:
            LostError, ClusterError: as `RoundRunner.run`.
        """
        if judged.refreshed is None and self._asks_in_doubt:
            judged = self._judged_again(underway, relay, "the aggregate lost refusals")
        canary = self._workers.server_data["canary"]
        opening = {"canary": canary.open_round.remote(underway.expected, underway.adapter)}
        check_opened(underway.index, opening, self._config.cluster.call_timeout_s)
        readings = {reading.client_id: reading for reading in relay.read("canary", canary)}
        evidence = [replace(item, readings=(*item.readings, readings[item.client_id])) for item in judged.evidence]
        return replace(judged, evidence=evidence)

    @property
    def _asks_in_doubt(self) -> bool:
        """Whether reference clients train where a round gives reason to, and no key says when."""
        return self._config.refreshes and self._config.probe.refresh_every is None

    def _judged_again(self, underway: Underway, relay: Relay, why: str) -> Judged:
        """The evidence once more, with reference clients of this round."""
        judged = self._judged(underway, relay, self._trained(underway))
        if judged.refreshed is None:
            return judged
        return replace(judged, refreshed=replace(judged.refreshed, why=f"{why}; {judged.refreshed.why}"))

    @property
    def _measuring(self) -> dict[Signal, ActorHandle[ServerData]]:
        """The actors with server data that measure reference clients, from which their level's bound follows."""
        defense = self._config.defense
        wanted = signals_of(defense) & referenced(defense, self._config.probe.threshold)
        return {name: actor for name, actor in self._workers.server_data.items() if name in wanted}

    def _refresh(self, index: int, learning_rate: float) -> Refresh:
        workers, config, references = self._workers, self._config, self._sources.references
        if workers.probe is None or workers.probe_meta is None:
            raise RuntimeError("a run that refreshes its probe has none")
        tasks = reference_tasks(
            references,
            index,
            feature=workers.probe_meta.feature,
            rate=learning_rate,
            seed=config.seed,
            freeze_a=config.aggregation.freezes_a,
        )
        return Refresh(
            workers.probe,
            workers.aggregator,
            self._measuring.values(),
            references,
            tasks,
            num_steps=config.training.steps,
            rate=rate(config.defense),
            timeout_s=config.probe.timeout_s,
            keep_all=config.clients.on_client_loss == "retry_round",
        )

    def _trained(self, underway: Underway) -> Refresh:
        """A refresh whose reference clients have trained, after the clients."""
        config, refresh, opened = self._config, self._refresh(underway.index, underway.rate), self.open(underway)
        jobs = [(self._workers.reference_pool, refresh.jobs(underway.adapter))]
        train_all(jobs, timeout_s=config.clients.timeout_s, start_timeout_s=config.cluster.start_timeout_s)
        check_opened(underway.index, opened, config.cluster.call_timeout_s)
        return refresh

    def _judged(self, underway: Underway, relay: Relay, refresh: Refresh | None) -> Judged:
        refreshed, measured = None, None
        if refresh is not None:
            refreshed = refresh.finish(underway.index, underway.rate)
            measured = refresh.measured(refreshed)
        wait_s = time.perf_counter() - relay.last_delivery
        if refreshed is not None and (relay.holds_updates or refreshed.outcome == "accepted"):
            relay.score_updates()
        evidence, absent = relay.collect()
        return Judged(evidence=evidence, absent=absent, refreshed=refreshed, references=measured, wait_s=wait_s)

    def _in_doubt(self, evidence: Sequence[ClientEvidence]) -> list[str]:
        """Clients of which the references leave open what they are; nobody where a key says when the probe is refitted."""
        if not self._asks_in_doubt:
            return []
        return self._workers.ask(self._workers.aggregator.in_doubt.remote(evidence), "comparing scores with those of references")
