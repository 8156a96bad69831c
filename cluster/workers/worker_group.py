"""The worker group: the actors of one run, started together, replaced when they die, ended together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, TypeVar, overload

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.aggregator import Aggregator, AggregatorActor, AggregatorConfig
from actors.client import Client
from actors.client_actor import ClientActor
from actors.errors import ModelError
from actors.evaluation import Evaluation, EvaluationActor
from actors.messages import AdapterLayout, AggregatorState
from actors.probe import Probe, ProbeActor, check_fit
from actors.remote.actors import GatewayActor, RemoteClientActor
from actors.remote.enrolment import Enrolments
from actors.remote.gateway import Gateway
from actors.remote.requests import Settings
from actors.server_data import CanaryActor, ServerData, Validation, ValidationActor
from actors.server_model import ServerModelActor
from actors.simulation.client import SimulatedClientActor
from actors.simulation.collusion import Base, Colluders, ColludersActor
from cluster.config.first_bounds import first_references
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.errors import ClusterError, DeadlineError, LostError
from cluster.state.membership import Membership
from cluster.state.run_state import RunState
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import answer_of
from cluster.workers.evaluations import Evaluations
from cluster.workers.gateway import endpoint, enrolments_file
from cluster.workers.nodes import living_nodes
from cluster.workers.placement import Options, plan_placement
from cluster.workers.pool import ClientPool, Starting
from cluster.workers.server_actor import ServerActor, launch
from defense.attacks import ATTACKS
from defense.guard import GuardState
from defense.signals import Signal
from probe.meta import ProbeMeta

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class WorkerGroup:
    """Starts the actors of a run as it is made, and holds their handles. `close` ends them."""

    def __init__(self, config: RunConfig, sources: Sources, probe_meta: ProbeMeta | None) -> None:
        """Start clients, evaluation and aggregator, and the probe and the actors with server data that the defense needs.

        Returns once each has loaded what it needs. When one cannot start, those started before it are ended.

        Args:
            probe_meta: What the run's first probe says of itself; None at a level without one.

        Raises:
            ClusterError: too few resources. ModelError, ProbeMismatchError: something does not fit.
            DeadlineError: cluster.start_timeout_s passed.
        """
        self._config, self._sources, self.probe_meta = config, sources, probe_meta
        self._placement = placement = plan_placement(config, living_nodes(), sources.model)
        self._layout: AdapterLayout | None = None
        self.is_restored = True
        """False from the beginning of a `restore` until its end: the server's actors may be in different states."""
        with ExitStack() as stack:
            self._server_data: dict[Signal, ServerActor[ServerData]] = {}
            for name, start in self._server_data_starts():
                self._server_data[name] = self._server_actor(stack, name, start)
            self.evaluations = Evaluations(self._evaluating_actor(stack), config.evaluation.timeout_s)
            self.pool = self._client_pool(stack, lambda: self._placement.client_options, placement.num_client_actors)
            self.reference_pool = self.pool
            """Where reference clients train: the server's own nodes when they are labelled, else the clients' actors."""
            if placement.num_reference_actors:
                self.reference_pool = self._client_pool(
                    stack, lambda: self._placement.reference_options, placement.num_reference_actors
                )
            self._initial, self.peft_config_json = self._about_the_adapter()
            self._gateway = self._start_gateway(stack)
            self.remote_pool = self._start_remote(stack)
            """Actors that hand tasks to participants outside the cluster; None: all clients train on it."""
            self._probe = self._start_probe(stack)
            self._aggregator = self._server_actor(stack, "aggregator", self._start_aggregator)
            self._colluders = self._start_colluders(stack)
            for actor in self._server_data.values():
                self._answer_of(actor, lambda handle: handle.num_rows.remote(), "starting", "start_timeout_s")
            self._stack = stack.pop_all()

    @property
    def aggregator(self) -> ActorHandle[Aggregator]:
        return self._aggregator.handle

    @property
    def probe(self) -> ActorHandle[Probe] | None:
        """None at a level without one."""
        return self._probe.handle if self._probe is not None else None

    @property
    def server_data(self) -> dict[Signal, ActorHandle[ServerData]]:
        """The actors with server data that the defense needs: `canary` and `validation`."""
        return {name: actor.handle for name, actor in self._server_data.items()}

    @property
    def colluders(self) -> ActorHandle[Colluders] | None:
        """Makes the updates of simulated attackers that collude; None where none do."""
        return self._colluders.handle if self._colluders is not None else None

    @property
    def model_fingerprint(self) -> str:
        """Of the base model that the actors have loaded."""
        return self._known_layout().model_fingerprint

    @property
    def lora_fingerprint(self) -> str:
        """Of the LoRA settings and the initial adapter."""
        return self._known_layout().lora_fingerprint

    def initial_state(self) -> RunState:
        """The state of a run of which no round is done."""
        probe = self._probe
        files = {} if probe is None else self._answer_of(probe, lambda handle: handle.artefact.remote(), "reading")
        references, defense = first_references(self._config.defense, self.probe_meta), self._config.defense
        aggregator = AggregatorState(adapter=self._initial, version=0, trust={}, defense=defense, references=references)
        known = self._sources.files
        membership = Membership(known=known, active=tuple(known))
        return RunState(
            config=self._config,
            model_fingerprint=self.model_fingerprint,
            lora_fingerprint=self.lora_fingerprint,
            aggregator=aggregator,
            membership=membership,
            guard=self.initial_guard(),
            probe=files,
        )

    def initial_guard(self) -> GuardState | None:
        """The guard that holds against the initial adapter; None where none is on.

        Raises:
            ModelError: that adapter has no finite loss.
        """
        canary = self._server_data.get("canary")
        if canary is None:
            return None
        found = self._answer_of(canary, lambda handle: handle.refusal_loss.remote(), "measuring the initial adapter by")
        if not math.isfinite(found.loss):
            raise ModelError(
                f"the refusals' loss under the initial adapter is {found.loss}, so nothing could be measured against it; "
                "check the model and evaluation.canary_path"
            )
        return (
            GuardState(error=found.error, serious=found.serious, certified=self._initial) if self._config.defense.guards else None
        )

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

    @overload
    def ask(self, refs: ObjectRef[T], what: str) -> T: ...
    @overload
    def ask(self, refs: Sequence[ObjectRef], what: str) -> list[Any]: ...
    def ask(self, refs: ObjectRef[T] | Sequence[ObjectRef], what: str) -> T | list[Any]:
        """The answer of an actor of the server.

        Raises:
            LostError: it is gone, or does not answer within cluster.call_timeout_s.
        """
        return answer_of(refs, self._config.cluster.call_timeout_s, what, "cluster.call_timeout_s")

    def restore(self, state: RunState) -> None:
        """Bring the server's actors to a committed state; one that is gone or does not answer is replaced first.

        Raises:
            LostError: the replacement is gone too.
        """
        self.is_restored = False
        what = "restoring"
        self._answer_of(self._aggregator, lambda handle: handle.restore.remote(state.aggregator), what)
        if self._probe is not None:
            self._answer_of(self._probe, lambda handle: handle.restore.remote(state.probe), what)
        for actor in self._server_data.values():
            self._answer_of(actor, lambda handle: handle.num_rows.remote(), what)
        if self._colluders is not None:
            self._answer_of(self._colluders, lambda handle: handle.begin.remote(state.aggregator.adapter, 0), what)
        self.is_restored = True

    def check_saved(self, adapter: bytes, tensors: bytes, config_json: str) -> None:
        """Have a client actor load the saved files with peft beside `adapter`, the run's; an actor that is gone is replaced.

        Raises:
            ModelError: they differ. ClusterError: every client actor that was asked died, or did not answer.
        """
        why = ""
        for _ in range(self._config.cluster.round_attempts):
            self._first_client()
            if (actor := self.pool.take()) is None:
                continue
            try:
                self.ask(actor.check_saved.remote(adapter, tensors, config_json), "checking the saved adapter")
            except LostError as error:
                why = str(error)
                self.pool.replace(actor)
            except ModelError as error:
                raise ModelError(str(getattr(error, "cause", None) or error)) from error
            else:
                self.pool.give_back(actor)
                return
        raise ClusterError(f"the saved adapter is not checked: client actors were lost in every attempt, last: {why}")

    def tell_end(self) -> None:
        """Let participants outside the cluster know that the federation is over."""
        if self._gateway is not None:
            self._answer_of(self._gateway, lambda handle: handle.end.remote(), "ending")

    def close(self) -> None:
        """End every actor."""
        self._stack.close()

    def _answer_of(
        self,
        actor: ServerActor,
        call: Callable[[Any], ObjectRef],
        what: str,
        timeout: Literal["call_timeout_s", "start_timeout_s"] = "call_timeout_s",
    ) -> Any:
        """The answer to a call that needs no state: an actor that is gone or does not answer is replaced, and asked once more."""
        timeout_s, key = getattr(self._config.cluster, timeout), f"cluster.{timeout}"
        what = f"{what} the {actor.name}"
        try:
            return answer_of(call(actor.handle), timeout_s, what, key)
        except LostError as error:
            _LOG.warning("the %s is replaced: %s", actor.name, error)
            actor.replace()
            return answer_of(call(actor.handle), timeout_s, what, key)

    def _server_actor(self, stack: ExitStack, name: str, start: Callable[[], ActorHandle]) -> ServerActor:
        actor = ServerActor(name, start)
        stack.callback(actor.close)
        return actor

    def _client_pool(self, stack: ExitStack, options: Callable[[], Options], num_actors: int) -> ClientPool:
        pool = ClientPool(lambda: self._start_client(options()), num_actors, self._accept)
        stack.callback(pool.close)
        return pool

    def _about_the_adapter(self) -> tuple[bytes, str]:
        """The initial adapter, and its PEFT configuration as JSON, from the first client actor that has started."""
        for _ in range(self._config.cluster.round_attempts):
            first = self._first_client()
            about = [first.initial_adapter.remote(), first.peft_config_json.remote()]
            try:
                initial, peft_config_json = answer_of(
                    about, self._config.cluster.start_timeout_s, "reading the initial adapter", "cluster.start_timeout_s"
                )
            except LostError as error:
                _LOG.warning("a client actor is replaced: %s", error)
                self.pool.replace(first)
            else:
                return initial, peft_config_json
        raise ClusterError("client actors died again and again before the first round")

    def _first_client(self) -> ActorHandle[Client]:
        timeout_s, options = self._config.cluster.start_timeout_s, self._placement.client_options
        try:
            return self.pool.wait_for_one(timeout_s)
        except DeadlineError as error:
            asks = ", ".join(f"{name}={value:g}" for name, value in options.items() if name.startswith("num_"))
            raise DeadlineError(
                f"no client actor started within cluster.start_timeout_s={timeout_s:g} s; each asks for {asks}, and "
                f"{self._placement.num_placeable} of {self._placement.num_client_actors} have room on the nodes there are"
            ) from error

    def _start_client(self, options: Options) -> Starting:
        """Start an actor that trains clients; a simulated one only where an experiment simulates clients."""
        arguments = (self._sources.model, self._config.lora, self._config.training)
        actor = (
            launch(SimulatedClientActor, options, *arguments)
            if self._config.simulates
            else launch(ClientActor, options, *arguments)
        )
        return Starting(actor, actor.layout.remote())

    @property
    def _shares_model(self) -> bool:
        """Whether the canary's actor also evaluates."""
        return self._placement.shares_model and self._sources.canary_path is not None and self._sources.evaluation.has_prompts

    def _evaluating_actor(self, stack: ExitStack) -> ServerActor[Any] | None:
        """None: there is no prompt to measure by."""
        if self._shares_model:
            return self._server_data["canary"]
        return self._server_actor(stack, "evaluation", self._start_evaluation) if self._sources.evaluation.has_prompts else None

    def _start_evaluation(self) -> ActorHandle[Evaluation]:
        config, sources = self._config, self._sources
        arguments = (sources.model, config.lora, sources.evaluation, config.training.max_length)
        return launch(EvaluationActor, self._placement.evaluation_options, *arguments)

    def _server_data_starts(self) -> list[tuple[Signal, Callable[[], ActorHandle]]]:
        """How to start each actor with server data that the run has."""
        starts: list[tuple[Signal, Callable[[], ActorHandle]]] = []
        if self._sources.canary_path is not None:
            starts.append(("canary", self._start_canary))
        if self._sources.validation:
            starts.append(("validation", self._start_validation))
        return starts

    def _start_canary(self) -> ActorHandle[Any]:
        config, sources, options = self._config, self._sources, self._placement.server_data_options
        arguments = (sources.model, config.lora, sources.canary_path, config.evaluation.canary_per_round, config.seed)
        if self._shares_model:
            return launch(ServerModelActor, options, *arguments, sources.evaluation, config.training.max_length)
        return launch(CanaryActor, options, *arguments)

    def _start_validation(self) -> ActorHandle[Validation]:
        config, sources = self._config, self._sources
        return launch(
            ValidationActor,
            self._placement.server_data_options,
            sources.model,
            config.lora,
            sources.validation,
            config.training,
            seed=config.seed,
            levels=config.defense.levels,
            max_rows=config.evaluation.max_validation,
            freezes_a=config.aggregation.freezes_a,
        )

    def _start_probe(self, stack: ExitStack) -> ServerActor[Probe] | None:
        path, layout = self._sources.probe_path, self._known_layout()
        if self.probe_meta is None or path is None:
            return None
        check_fit(self.probe_meta, layout, path)
        options, settings = self._placement.server_options, self._config.probe
        return self._server_actor(stack, "probe", lambda: launch(ProbeActor, options, path, layout, settings))

    def _start_colluders(self, stack: ExitStack) -> ServerActor[Colluders] | None:
        config, layout = self._config, self._known_layout()
        if not (config.clients.malicious and ATTACKS[config.clients.attack].colludes):
            return None
        base = Base(model=self._sources.model, lora=config.lora)
        arguments = (layout, config.clients.attack, config.attack, config.training, base)
        return self._server_actor(stack, "colluders", lambda: launch(ColludersActor, self._placement.server_options, *arguments))

    def _start_gateway(self, stack: ExitStack) -> ServerActor[Gateway] | None:
        """Opens the endpoint on the driver's node, where its certificate and the enrolments lie."""
        config, layout = self._config, self._known_layout()
        if not config.gateway.remote:
            return None
        settings = Settings(
            model=self._sources.model.model_copy(update={"path": None}),
            lora=config.lora,
            training=config.training,
            model_fingerprint=layout.model_fingerprint,
            lora_fingerprint=layout.lora_fingerprint,
        )
        pinned = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        arguments = (endpoint(config), Enrolments(enrolments_file(config)), layout, settings)
        options = {"num_cpus": 0, "scheduling_strategy": pinned}
        gateway = self._server_actor(stack, "gateway", lambda: launch(GatewayActor, options, *arguments))
        try:
            self.ask(gateway.handle.start.remote(), "opening the gateway")
        except OSError as error:
            raise ClusterError(
                f"gateway.host={config.gateway.host}, gateway.port={config.gateway.port}: {first_line(error)}; choose another one"
            ) from error
        return gateway

    def _start_remote(self, stack: ExitStack) -> ClientPool | None:
        gateway, layout, num_actors = self._gateway, self._known_layout(), len(self._config.gateway.remote)
        if gateway is None:
            return None

        def start() -> Starting:
            actor = launch(RemoteClientActor, {"num_cpus": 0}, gateway.handle, layout)
            return Starting(actor, actor.layout.remote())

        pool = ClientPool(start, num_actors, self._accept)
        stack.callback(pool.close)
        return pool

    def _start_aggregator(self) -> ActorHandle[Aggregator]:
        config = self._config
        settings = AggregatorConfig(
            training=config.training,
            defense=config.defense,
            aggregation=config.aggregation,
            admission=config.admission,
            min_updates=config.clients.quorum,
            threshold=config.probe.threshold,
            references=first_references(config.defense, self.probe_meta),
            seed=config.seed,
        )
        return launch(AggregatorActor, self._placement.server_options, settings, self._known_layout(), self._initial)

    def _known_layout(self) -> AdapterLayout:
        if self._layout is None:
            raise RuntimeError("no client actor has started yet")
        return self._layout

    def _accept(self, layout: AdapterLayout) -> None:
        """The adapter layout must be the same on every client actor."""
        self._layout = self._layout or layout
        if layout != self._layout:
            raise ModelError(
                f"a client actor loaded base model {layout.model_fingerprint} from model.path={self._sources.model.path}, "
                f"the others have {self._layout.model_fingerprint}, or another adapter from "
                f"lora.start_from={self._config.lora.start_from}; give every node the same files"
            )
