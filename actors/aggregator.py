"""AggregatorActor: owns the global adapter and the trust in each client; admits, weighs, aggregates, skips or commits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch

from actors.config import TrainingConfig
from actors.errors import WireError
from actors.gathering import Reading, gather, tie_refusal
from actors.messages import AdapterLayout, Admission, AggregatorState, ClientRound, LoRAUpdate, RoundReport
from actors.recording import absent_row, admitted_row, tensor_bytes
from actors.scaffold import CLIPPING_SLACK, ControlVariates, Gradient
from actors.seeding import stream
from actors.wire import decode_message, decode_tensors, encode_tensors
from defense.admission import (
    OpenRound,
    Reason,
    Refusal,
    check_control_variate,
    check_count,
    check_frozen,
    check_sender,
    check_tensors,
    delta_norm,
)
from defense.agreement import compare
from defense.averaging import svd
from defense.averaging.ffa import frozen_names
from defense.averaging.pairs import lora_pairs
from defense.bounds import check_moved, round_bounds
from defense.config import AdmissionConfig, AggregationConfig, DefenseConfig
from defense.gate import Decision, decide, lift
from defense.influence import capped, divisor
from defense.levels import compares, is_banned, make_level, sources_of, wants_shadow
from defense.optimizers import make_optimizer
from defense.rules import gather as gathering
from defense.rules import make_rule
from defense.rules.rule import Aggregate, Memory, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """What the aggregator needs to know of a run."""

    training: TrainingConfig
    defense: DefenseConfig = field(default_factory=DefenseConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    min_updates: int = 1
    """Admitted updates without which a round is not committed."""
    seed: int = 0
    """The run's; a rule that draws at random has a stream from it for each round."""


@dataclass(slots=True)
class _Round:
    """The round in progress; becomes part of the aggregator's state only when it is closed."""

    expected: OpenRound
    trust: Mapping[str, Any]
    folded: Any
    """The rule's state."""
    min_updates: int
    rows: dict[str, ClientRound] = field(default_factory=dict)
    raw_weights: dict[str, float] = field(default_factory=dict)
    """Weight of each admitted client before `min_weight`."""
    waiting: list[LoRAUpdate] = field(default_factory=list)
    """Those with valid evidence, kept until all are there where a client's part depends on the others."""
    masses: dict[str, float] = field(default_factory=dict)
    """n w of each client as the rule was given it."""
    mean_control: Gradient | None = None
    """SCAFFOLD's c; None without."""
    controls: dict[str, tuple[float, Gradient]] = field(default_factory=dict)
    """Weight and c_i+ of each client that weighs more than 0."""
    averaging_error: float | None = None
    submit_s: float = 0.0


class Aggregator:
    """Owns the global adapter; one instance per run.

    A round is `open_round`, a `submit` or `drop` per client, `close_round`. Updates are given to the rule as they are
    submitted, in order of client id, so sums do not depend on who finishes first. FedAvg folds each into one sum, and
    memory does not grow with the number of clients; the other rules, and averaging of products, keep the updates until the
    round is closed.
    """

    def __init__(self, config: AggregatorConfig, layout: AdapterLayout, adapter: bytes) -> None:
        torch.set_num_threads(config.training.num_threads)
        self._config, self._layout = config, layout
        self._adapter, self._adapter_bytes, self._version = decode_tensors(adapter), adapter, 0
        self._defend(config.defense)
        self._rule, self._optimize = make_rule(config.aggregation), make_optimizer(config.aggregation)
        self._memory: Memory = {}
        self._optimizer_memory: Memory = {}
        self._frozen = frozen_names(layout.shapes) if config.aggregation.freezes_a else frozenset()
        self._controls = ControlVariates({name: shape for name, shape in layout.shapes.items() if name not in self._frozen})
        if self._averages_products:
            lora_pairs(layout.shapes)  # a layout that cannot be averaged so is told before a round is run
        self._trust: Mapping[str, Any] = {}
        self._round: _Round | None = None

    def adapter(self) -> bytes:
        """The global adapter as safetensors."""
        return self._adapter_bytes

    def state(self) -> AggregatorState:
        """What has been committed; an open round is not part of it."""
        return AggregatorState(
            adapter=self._adapter_bytes,
            version=self._version,
            trust=self._trust,
            defense=self._defense,
            rule_memory=_encode_memory(self._memory),
            optimizer_memory=_encode_memory(self._optimizer_memory),
            control_variates=self._controls.encode(),
        )

    def restore(self, state: AggregatorState) -> None:
        """Go on from a committed state; an open round is discarded."""
        self._adapter, self._adapter_bytes, self._version = decode_tensors(state.adapter), state.adapter, state.version
        self._trust, self._round = state.trust, None
        self._memory, self._optimizer_memory = _decode_memory(state.rule_memory), _decode_memory(state.optimizer_memory)
        self._controls = self._controls.decoded(state.control_variates)
        self._defend(state.defense)

    def _defend(self, defense: DefenseConfig) -> None:
        self._defense, self._level, self._sources = defense, make_level(defense), sources_of(defense)

    def open_round(
        self,
        round_index: int,
        client_ids: Sequence[str],
        learning_rate: float,
        min_updates: int | None = None,
        num_known: int | None = None,
    ) -> OpenRound:
        """Begin a round with these clients at this learning rate; returns what the probe should expect too.

        Args:
            min_updates: Admitted updates without which the round is not committed; None: the configured number.
            num_known: All clients that the federation knows, over whom SCAFFOLD takes its mean; None: these and those who have a
                control variate.
        """
        training = self._config.training
        bounds = round_bounds(
            self._config.admission,
            self._adapter,
            learning_rate=learning_rate,
            shadow_rate=self._defense.shadow.learning_rate if "shadow" in self._sources else 0.0,
            num_steps=training.steps,
            weight_decay=training.weight_decay,
            freezes_a=bool(self._frozen),
        )
        expected = OpenRound(
            round_index=round_index,
            base_version=self._version,
            client_ids=frozenset(client_ids),
            num_steps=training.steps,
            batch_size=training.batch_size,
            reads=self._sources,
            shadow_ids=frozenset(c for c in client_ids if wants_shadow(self._defense, self._trust, c)),
            learning_rate=learning_rate,
            **bounds,
        )
        quorum = min_updates or self._config.min_updates
        self._round = _Round(expected=expected, trust=self._trust, folded=self._rule.init(), min_updates=quorum)
        if training.scaffold:
            self._round.mean_control = self._controls.mean(num_known or len({*client_ids, *self._controls.own}))
        return expected

    def control_difference(self, client_id: str) -> bytes:
        """SCAFFOLD's c - c_i in the open round, as safetensors: what the client's gradients are corrected by.

        Raises:
            RuntimeError: no round is open, or training.scaffold is off.
        """
        mean = self._open().mean_control
        if mean is None:
            raise RuntimeError("training.scaffold is off, so there are no control variates; set it to true")
        return encode_tensors(self._controls.difference(client_id, mean))

    def submit(self, client_id: str, update: bytes, last_delta: bytes | None, scores: Sequence[Reading]) -> Admission:
        """Admit, weigh and fold in one client's update.

        Args:
            client_id: Who sent it, as the server knows it. Clients are submitted in ascending order.
            update: An encoded LoRAUpdate.
            last_delta: The encoded last real StepDelta, which must be the submitted delta. Not read where no level
                weighs step deltas.
            scores: What probe, canary and validation say: scores of this client's step deltas in the order in which it sent
                them, and readings of the update.

        Raises:
            RuntimeError: no round is open, or a client with a later id was submitted before.
        """
        started, current = time.perf_counter(), self._open()
        if current.raw_weights and client_id < max(current.raw_weights):
            raise RuntimeError(f"client {client_id} submitted after {max(current.raw_weights)}; submit in order of client id")
        answer = self._take(current, client_id, update, last_delta, scores)
        current.submit_s += time.perf_counter() - started
        return answer

    def _take(
        self, current: _Round, client_id: str, update: bytes, last_delta: bytes | None, scores: Sequence[Reading]
    ) -> Admission:
        try:
            message = decode_message(update, LoRAUpdate)
        except WireError as error:
            return self._refuse(client_id, Refusal(Reason.MALFORMED, str(error)), _size(update))
        refusal = self._check(client_id, message, last_delta, scores)
        if refusal is not None:
            return self._refuse(client_id, refusal, tensor_bytes(message))
        self._weigh(current, message, scores)
        return Admission(client_id=client_id, admitted=True, reason=None)

    def drop(self, client_id: str, reason: str) -> None:
        """Record that a sampled client delivers nothing this round, and why. The first reason stands."""
        current = self._open()
        current.rows.setdefault(client_id, absent_row(current.expected.round_index, client_id, reason))

    def close_round(self) -> RoundReport:
        """Judge the round and commit or skip it; the report has a row for every sampled client."""
        started, current = time.perf_counter(), self._open()
        for client_id in current.expected.client_ids:
            self.drop(client_id, "nothing was received")
        self._settle(current)
        decision = decide(current.raw_weights, min_updates=current.min_updates, skip_below=self._defense.skip_below)
        if decision.outcome == "aggregated":
            decision = self._aggregate(current, decision)
        if decision.outcome != "no_quorum":
            self._trust = current.trust
        self._round = None
        seconds = {"submit_s": current.submit_s, "aggregate_s": time.perf_counter() - started}
        return replace(self._report(current, decision), **seconds)

    def _open(self) -> _Round:
        if self._round is None:
            raise RuntimeError("no round is open; call open_round first")
        return self._round

    def _check(self, client_id: str, message: LoRAUpdate, last_delta: bytes | None, scores: Sequence[Reading]) -> Refusal | None:
        current = self._open()
        if message.client_id != client_id:
            return Refusal(Reason.UNKNOWN_CLIENT, f"client {client_id} sent an update signed {message.client_id!r:.80}")
        if client_id in current.rows:
            return Refusal(Reason.DUPLICATE, f"{client_id} was already received this round")
        refusal = (
            check_sender(message, current.expected)
            or check_count("num_samples", message.num_samples, current.expected.max_samples)
            or check_tensors(message.tensors, self._layout.shapes)
            or check_frozen(message.tensors, self._adapter, self._frozen)
            or self._check_control(message)
        )
        if refusal is not None:
            return refusal
        delta = self._delta(message)
        refusal = check_moved(message.tensors, delta, self._adapter, current.expected)
        if refusal is not None or not self._sources & {"real", "shadow"}:
            return refusal
        return tie_refusal(delta, last_delta, scores, self._config.training.steps)

    def _check_control(self, message: LoRAUpdate) -> Refusal | None:
        training = self._config.training
        asked = self._controls.shapes if training.scaffold else None
        return check_control_variate(message.control_variate, asked, CLIPPING_SLACK * training.max_grad_norm)

    def _delta(self, message: LoRAUpdate) -> dict[str, torch.Tensor]:
        """Client minus global in float32, the same subtraction that the client's last StepDelta made."""
        return {name: message.tensors[name] - self._adapter[name] for name in self._layout.shapes}

    def _weigh(self, current: _Round, message: LoRAUpdate, scores: Sequence[Reading]) -> None:
        """Weigh an admitted update and fold it in, at once where no other client has a say in its weight."""
        client_id, asked = message.client_id, message.client_id in current.expected.shadow_ids
        delta = self._delta(message)
        found = gather(message, delta, scores, sources=self._sources, shadow_asked=asked, training=self._config.training)
        current.raw_weights[client_id] = 0.0
        index, norm = current.expected.round_index, delta_norm(delta)
        current.rows[client_id] = admitted_row(index, message, found, scores, sources=self._sources, update_norm=norm)
        if found.evidence is None:
            return
        weights, current.trust = self._level(current.trust, [found.evidence])
        current.raw_weights |= weights
        if self._waits:
            current.waiting.append(message)
        else:
            self._fold(current, message, self._lifted(current, client_id))

    @property
    def _waits(self) -> bool:
        """Whether a client's part in the round depends on the other clients."""
        return compares(self._defense) or self._config.aggregation.max_share < 1

    def _settle(self, current: _Round) -> None:
        """Fold in those that waited for each other, each with its final weight."""
        if compares(self._defense):
            self._compare(current)
        weights = {message.client_id: self._lifted(current, message.client_id) for message in current.waiting}
        counted = [message for message in current.waiting if weights[message.client_id] > 0]
        most = self._config.aggregation.max_share
        bounded_weights = capped({m.client_id: weights[m.client_id] for m in counted}, most)
        bounded_masses = capped({m.client_id: m.num_samples * weights[m.client_id] for m in counted}, most)
        for message in current.waiting:
            weight, mass = bounded_weights.get(message.client_id, 0.0), bounded_masses.get(message.client_id, 0.0)
            self._fold(current, message, weights[message.client_id], (weight, mass))

    def _compare(self, current: _Round) -> None:
        """Let the clients that have a weight be judged by each other."""
        kept = gathering.Gathered()
        for message in current.waiting:
            weight = current.raw_weights[message.client_id]
            if weight > 0:
                kept = gathering.add(kept, self._weighed(message, weight))
        if kept.updates:
            found, weights, current.trust = compare(self._defense, current.trust, kept)
            for item in found:
                weight = min(current.raw_weights[item.client_id], weights[item.client_id])
                current.raw_weights[item.client_id] = weight
                current.rows[item.client_id] = replace(current.rows[item.client_id], agreement=item.cosine)

    def _lifted(self, current: _Round, client_id: str) -> float:
        raw = current.raw_weights[client_id]
        return raw if is_banned(current.trust, client_id) else lift(raw, self._defense.min_weight)

    def _fold(self, current: _Round, message: LoRAUpdate, weight: float, bounded: tuple[float, float] | None = None) -> None:
        """Give an update with its weight to the rule; `bounded`: what `max_share` leaves of w and of n w, None: all."""
        client_id = message.client_id
        current.rows[client_id] = replace(current.rows[client_id], weight=weight)
        if weight > 0:
            given = self._weighed(message, weight)
            if bounded is not None:
                given = replace(given, weight=bounded[0], bounded_mass=bounded[1])
            current.masses[client_id] = given.mass
            current.folded = self._rule.add(current.folded, given)
            if message.control_variate is not None:
                current.controls[client_id] = weight, message.control_variate

    def _weighed(self, message: LoRAUpdate, weight: float) -> Update:
        free = [name for name in self._layout.shapes if name not in self._frozen]
        exact = {name: message.tensors[name].double() - self._adapter[name].double() for name in free}
        return Update(client_id=message.client_id, delta=exact, num_samples=message.num_samples, weight=weight)

    def _refuse(self, client_id: str, refusal: Refusal, num_bytes: int) -> Admission:
        current = self._open()
        if client_id in current.expected.client_ids:
            row = absent_row(current.expected.round_index, client_id, str(refusal), num_bytes)
            current.rows.setdefault(client_id, row)
        return Admission(client_id=client_id, admitted=False, reason=str(refusal))

    def _aggregate(self, current: _Round, decision: Decision) -> Decision:
        """Commit what rule and optimizer make of the round; the decision, with a word on a lowered f and on what was lost."""
        rng = stream(self._config.seed, "aggregation", current.expected.round_index)
        if self._averages_products:
            aggregate = svd.aggregate(current.folded, self._adapter)
        else:
            aggregate = self._rule.finish(current.folded, self._memory, rng)
        part = sum(current.masses.values()) / self._divisor(current)
        pseudo_gradient = {name: part * tensor for name, tensor in aggregate.delta.items()}
        move, self._optimizer_memory = self._optimize(self._optimizer_memory, pseudo_gradient)
        self._commit(move)
        self._controls = self._controls.moved(current.controls)
        self._memory, current.averaging_error = aggregate.memory, aggregate.error
        return replace(decision, why=decision.why + self._lowered(aggregate) + _left_out(aggregate))

    def _divisor(self, current: _Round) -> float:
        """What the sum of n w delta is divided by."""
        aggregation, num_samples = self._config.aggregation, sum(row.num_samples for row in current.rows.values())
        return divisor(current.masses.values(), num_samples, aggregation.normalisation, aggregation.max_share)

    def _lowered(self, aggregate: Aggregate) -> str:
        aggregation, assumed = self._config.aggregation, aggregate.num_attackers
        if assumed is None or assumed == aggregation.f:
            return ""
        return f"; aggregation.f={aggregation.f} was lowered to {assumed}, the most that so few clients allow"

    @property
    def _averages_products(self) -> bool:
        return self._config.aggregation.averaging == "svd"

    def _commit(self, move: Mapping[str, torch.Tensor]) -> None:
        moved = {name: (self._adapter[name].double() + change).float() for name, change in move.items()}
        self._adapter = self._adapter | moved
        self._adapter_bytes = encode_tensors(self._adapter)
        self._version += 1

    def _report(self, current: _Round, decision: Decision) -> RoundReport:
        divisor = self._divisor(current) if decision.outcome == "aggregated" else math.inf
        rows = tuple(
            replace(row, round_outcome=decision.outcome, share=current.masses.get(client_id, 0.0) / divisor)
            for client_id, row in sorted(current.rows.items())
        )
        return RoundReport(
            round=current.expected.round_index,
            outcome=decision.outcome,
            why=decision.why,
            adapter_version=self._version,
            mean_weight=decision.mean_weight,
            clients=rows,
            averaging_error=current.averaging_error,
        )


def _left_out(aggregate: Aggregate) -> str:
    return "" if aggregate.error is None else f"; {aggregate.error:.2%} of the mean B A is beyond the rank"


def _encode_memory(memory: Memory) -> bytes:
    return encode_tensors(memory) if memory else b""


def _decode_memory(encoded: bytes) -> dict[str, torch.Tensor]:
    return decode_tensors(encoded) if encoded else {}


def _size(update: object) -> int:
    """Length of what a client sent in place of an update, which need not be bytes."""
    return len(update) if isinstance(update, bytes) else 0


AggregatorActor = ray.remote(Aggregator)
