"""The actors of one run: started together, checked to hold the same model, brought back when they die, ended together."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.aggregator import AggregatorActor, AggregatorConfig
from actors.attacker import AttackerActor
from actors.canary import CanaryActor
from actors.client import ClientActor
from actors.errors import ModelError
from actors.evaluation import EvaluationActor
from actors.messages import AdapterLayout, AggregatorState
from actors.probe import ProbeActor, check_fit
from actors.validation import ValidationActor
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.errors import ClusterError, DeadlineError, LostError
from cluster.probes.suitability import load_suited
from cluster.state.membership import Roster
from cluster.state.run_state import RunState
from cluster.workers.deadlines import wait_for
from cluster.workers.evaluations import Evaluations
from cluster.workers.nodes import living_nodes
from cluster.workers.placement import Options, Placement, plan_placement
from cluster.workers.pool import ClientPool, Starting
from defense.attacks import ATTACKS
from defense.evidence import Source
from defense.guard import GuardState, begin
from probe.meta import ProbeMeta

_LOG = logging.getLogger(__name__)


class Crew:
    """Handles of a run's actors; `start` returns once each has loaded what it needs."""

    def __init__(self, config: RunConfig, sources: Sources) -> None:
        self._config, self._sources = config, sources
        self.probe_meta = load_probe_meta(config, sources)
        self.pool: ClientPool
        self.reference_pool: ClientPool
        """Where reference clients train: the server's own nodes when they are labelled, else the clients' actors."""
        self.evaluations: Evaluations
        self.aggregator: Any
        self.probe: Any | None = None
        self.meters: dict[Source, Any] = {}
        """The actors that read updates by what they do: `canary` and `validation`, those that levels or guard ask."""
        self.attacker: Any | None = None
        """Makes the updates of simulated attackers that collude; None where none do."""
        self.peft_config_json = ""
        """The text of adapter_config.json."""
        self._placement: Placement
        self._layout: AdapterLayout | None = None
        self._initial = b""

    def start(self) -> None:
        """Start clients, evaluation, aggregator, and the probe and the meters that levels and guard need.

        Raises:
            ClusterError: too few resources. ModelError, ProbeMismatchError: something does not fit.
            DeadlineError: cluster.start_timeout_s passed.
        """
        config = self._config
        self._placement = placement = plan_placement(config, living_nodes(), self._sources.model)
        self.evaluations = Evaluations(self._start_evaluation, config.evaluation.timeout_s)
        self.meters = {name: start() for name, start in self._meter_starts().items()}
        self.pool = ClientPool(self._start_client, placement.num_client_actors, self._accept)
        self.reference_pool = self.pool
        if placement.num_reference_actors:
            self.reference_pool = ClientPool(self._start_reference, placement.num_reference_actors, self._accept)
        first = self._first_client()
        about = [first.initial_adapter.remote(), first.peft_config_json.remote()]
        self._initial, self.peft_config_json = wait_for(about, config.cluster.start_timeout_s, "reading the initial adapter")
        if self.probe_meta is not None:
            check_fit(self.probe_meta, self._layout, str(self._sources.probe_path))
            self.probe = self._start_probe()
        self.aggregator = self._start_aggregator()
        if config.clients.malicious and ATTACKS[config.clients.attack].colludes:
            self.attacker = self._start_attacker()
        for name, meter in self.meters.items():
            wait_for(meter.num_rows.remote(), config.cluster.start_timeout_s, f"starting the {name}")

    def initial_state(self) -> RunState:
        """The state of a run of which no round is done."""
        files = self.ask(self.probe.artefact.remote(), "loading the probe") if self.probe is not None else {}
        aggregator = AggregatorState(adapter=self._initial, version=0, trust={}, defense=self._config.defense)
        known = self._sources.files
        roster = Roster(known=known, active=tuple(known))
        return RunState(aggregator=aggregator, roster=roster, guard=self.initial_guard(), probe=files)

    def initial_guard(self) -> GuardState | None:
        """The guard that holds against the initial adapter; None where none is on.

        Raises:
            ModelError: that adapter has no finite loss.
        """
        if not self._config.defense.guard.enabled:
            return None
        loss = self.ask(self.meters["canary"].loss.remote(self._initial), "measuring the initial adapter")
        try:
            return begin(loss, self._initial)
        except ValueError as error:
            raise ModelError(str(error)) from error

    @property
    def capacity(self) -> int | None:
        """How many clients there is room for in a round; None: for all."""
        per_actor = self._config.cluster.clients_per_actor
        return None if per_actor is None else per_actor * max(1, self._placement.num_placeable)

    def resize(self, num_clients: int) -> None:
        """Follow the cluster's size and the number of clients; no client may be training.

        Actors for which there is no room are demand that Ray's autoscaler sees; they start when a node joins. A cluster
        that has become too small for any keeps the actors it has.
        """
        try:
            placement = plan_placement(self._config, living_nodes(), self._sources.model, num_clients)
        except ClusterError as error:
            _LOG.warning("the pool of client actors stays as it is: %s", error)
            return
        self._placement = placement
        self.pool.resize(placement.num_client_actors)
        if self.reference_pool is not self.pool:
            self.reference_pool.resize(placement.num_reference_actors)

    def ask(self, refs: Any, what: str) -> Any:
        """The answer of aggregator or probe.

        Raises:
            LostError: it is gone, or does not answer within cluster.call_timeout_s.
        """
        try:
            return wait_for(refs, self._config.cluster.call_timeout_s, what)
        except (RayActorError, DeadlineError) as error:
            raise LostError(f"{what}: {str(error).splitlines()[0]}") from error

    def restore(self, state: RunState) -> None:
        """Bring the server's actors to a committed state; one that is gone or does not answer is replaced first.

        Raises:
            LostError: the replacement is gone too.
        """
        if not self._restored(self.aggregator.restore.remote(state.aggregator)):
            ray.kill(self.aggregator)
            self.aggregator = self._start_aggregator()
            self.ask(self.aggregator.restore.remote(state.aggregator), "restoring the aggregator")
        if self.probe is not None and not self._restored(self.probe.restore.remote(state.probe)):
            ray.kill(self.probe)
            self.probe = self._start_probe()
            self.ask(self.probe.restore.remote(state.probe), "restoring the probe")
        for name, start in self._meter_starts().items():
            if not self._restored(self.meters[name].num_rows.remote()):
                ray.kill(self.meters[name])
                self.meters[name] = start()
                self.ask(self.meters[name].num_rows.remote(), f"restoring the {name}")
        if self.attacker is not None and not self._restored(self.attacker.begin.remote(state.aggregator.adapter, 0)):
            ray.kill(self.attacker)
            self.attacker = self._start_attacker()

    def close(self) -> None:
        """End every actor."""
        for name in ("pool", "reference_pool", "evaluations"):
            if hasattr(self, name):
                getattr(self, name).close()
        single = [getattr(self, name, None) for name in ("aggregator", "probe", "attacker")]
        for actor in (*single, *self.meters.values()):
            if actor is not None:
                ray.kill(actor)

    def _restored(self, ref: Any) -> bool:
        try:
            self.ask(ref, "restoring a committed state")
        except LostError:
            return False
        return True

    def _first_client(self) -> Any:
        timeout_s, options = self._config.cluster.start_timeout_s, self._placement.client_options
        try:
            return self.pool.wait_for_one(timeout_s)
        except DeadlineError as error:
            asks = ", ".join(f"{name}={value:g}" for name, value in options.items() if name.startswith("num_"))
            raise DeadlineError(
                f"no client actor started within cluster.start_timeout_s={timeout_s:g} s; each asks for {asks}, and "
                f"{self._placement.num_placeable} of {self._placement.num_client_actors} have room on the nodes there are"
            ) from error

    def _start_client(self) -> Starting:
        return self._start_trainer(self._placement.client_options)

    def _start_reference(self) -> Starting:
        return self._start_trainer(self._placement.reference_options)

    def _start_trainer(self, options: Options) -> Starting:
        actors = ClientActor.options(**options)
        actor = actors.remote(self._sources.model, self._config.lora, self._config.training)
        return Starting(actor, actor.layout.remote())

    def _start_evaluation(self) -> Any:
        actors, config = EvaluationActor.options(**self._placement.evaluation_options), self._config
        return actors.remote(self._sources.model, config.lora, self._sources.evaluation, config.training.max_length)

    def _meter_starts(self) -> dict[Source, Callable[[], Any]]:
        """How to start each meter that the run has."""
        starts: dict[Source, Callable[[], Any]] = {}
        if self._sources.canary_path is not None:
            starts["canary"] = self._start_canary
        if self._sources.validation_path is not None:
            starts["validation"] = self._start_validation
        return starts

    def _start_canary(self) -> Any:
        actors, config = CanaryActor.options(**self._placement.meter_options), self._config
        return actors.remote(self._sources.model, config.lora, self._sources.canary_path, config.training.max_length)

    def _start_validation(self) -> Any:
        actors, config, sources = ValidationActor.options(**self._placement.meter_options), self._config, self._sources
        return actors.remote(
            sources.model,
            config.lora,
            sources.validation_path,
            config.training,
            seed=config.seed,
            trains="fltrust" in config.defense.levels,
            freezes_a=config.aggregation.freezes_a,
        )

    def _start_probe(self) -> Any:
        actors = ProbeActor.options(**self._placement.server_options)
        return actors.remote(self._sources.probe_path, self._layout, self._config.probe)

    def _start_attacker(self) -> Any:
        actors, config = AttackerActor.options(**self._placement.server_options), self._config
        return actors.remote(self._layout, config.clients.attack, config.attack, config.training.steps)

    def _start_aggregator(self) -> Any:
        actors = AggregatorActor.options(**self._placement.server_options)
        return actors.remote(self._aggregator_config(), self._layout, self._initial)

    def _accept(self, layout: AdapterLayout) -> None:
        """The adapter layout must be the same on every client actor."""
        self._layout = self._layout or layout
        if layout != self._layout:
            raise ModelError(
                f"a client actor loaded base model {layout.model_fingerprint} from model.path={self._sources.model.path}, "
                f"the others have {self._layout.model_fingerprint}; give every node the same files"
            )

    def _aggregator_config(self) -> AggregatorConfig:
        config = self._config
        return AggregatorConfig(
            training=config.training,
            defense=config.defense,
            aggregation=config.aggregation,
            admission=config.admission,
            min_updates=config.clients.quorum,
            seed=config.seed,
        )


def load_probe_meta(config: RunConfig, sources: Sources) -> ProbeMeta | None:
    """What the run's probe says of itself; None at level none.

    Raises:
        ConfigError: as `load_suited`.
    """
    return None if sources.probe_path is None else load_suited(config, Path(sources.probe_path))
