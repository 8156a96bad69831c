"""AggregatorActor: owns the global adapter and the trust in each client; admits, weighs, aggregates, skips or commits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import ray
import torch

from actors.admission import CheckedUpdate, UpdateCheck
from actors.config import TrainingConfig
from actors.evidence import Findings, find_signals, last_step_refusal, logged, scores_of, verdict
from actors.messages import (
    AdapterLayout,
    Admission,
    AdmittedUpdate,
    AggregatorState,
    ClientEvidence,
    ClientRound,
    LoRAUpdate,
    MeasuredReferences,
    RoundReport,
)
from actors.reference_values import values_of
from actors.scaffold import CLIPPING_SLACK, ControlVariates, Gradient
from actors.seeding import stream
from actors.standing import Standing, decoded
from actors.state_vector import StateVector
from actors.wire import decode_message, decode_tensors, encode_tensors, tensor_bytes
from defense import levels
from defense.admission.bounds import round_bounds
from defense.admission.checks import OpenRound, Reason, Refusal, check_finite, check_tensors
from defense.admission.settings import AdmissionConfig
from defense.averaging.pairs import frozen_names, lora_pairs
from defense.bounds import Bound
from defense.config import DefenseConfig
from defense.doubt import in_doubt, now_settled
from defense.gate import Decision, apply_min_weight, decide
from defense.influence import capped, divisor
from defense.level_bounds import References, level_bounds, referenced
from defense.levels.level import Exclusion, Trust, Verdict
from defense.levels.spectrum import FLATNESS
from defense.optimizers import make_optimizer
from defense.rules.accumulator import Accumulator, make_accumulator
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import Aggregate, RoundUpdates, WeightedUpdate
from defense.signals import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """What the aggregator needs to know of a run."""

    training: TrainingConfig
    defense: DefenseConfig = field(default_factory=DefenseConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    min_updates: int = 1
    """Admitted updates without which a round is not committed."""
    threshold: float | None = None
    """`probe.threshold`: the bound of level live; None: from the reference clients."""
    references: References = field(default_factory=dict)
    """What is known of reference clients before the first refresh."""
    seed: int = 0
    """The run's; a rule that draws at random has a stream from it for each round."""


@dataclass(slots=True)
class _Round:
    """The round in progress; becomes part of the aggregator's state only when it is closed."""

    check: UpdateCheck
    min_updates: int
    mean_control: Gradient | None = None
    """SCAFFOLD's c; None without."""
    rows: dict[str, ClientRound] = field(default_factory=dict)
    measured: dict[str, dict[Signal, dict[str, float]]] = field(default_factory=dict)
    """What the levels measured on each admitted delta itself."""
    admit_s: float = 0.0
    unasked: frozenset[Signal] = frozenset()
    """Signals that nobody was asked about any client."""

    @property
    def expected(self) -> OpenRound:
        return self.check.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folded:
    """What the rule was given in a round."""

    masses: Mapping[str, float]
    """n w of each client that weighs more than 0, as `max_share` leaves it."""
    controls: Mapping[str, tuple[float, Gradient]]
    """Weight and c_i+ of each of them, with SCAFFOLD."""
    accumulator: Accumulator
    """What the rule was given."""


class Aggregator:
    """Owns the global adapter; one instance per run.

    A round is `open_round`, an `admit` per client, `close_round`; where that left a signal unasked and the aggregate gives
    reason to ask, `reopen_round` and `close_round` with the answers. Updates are folded at the close, in order of client id, so
    sums do not depend on which client finishes first. FedAvg folds each into one sum and releases it, so memory does not grow
    with the number of clients; the other rules, averaging of products, and levels that compare clients keep them until the end.
    """

    def __init__(self, config: AggregatorConfig, layout: AdapterLayout, adapter: bytes) -> None:
        torch.set_num_threads(config.training.num_threads)
        self._config, self._defense = config, config.defense
        self._frozen = frozen_names(layout.shapes) if config.aggregation.freezes_a else frozenset()
        trained = {name: tuple(shape) for name, shape in layout.shapes.items() if name not in self._frozen}
        self._layout, self._trained_layout = StateVector(layout.shapes), StateVector(trained)
        self._now = Standing(
            adapter=decode_tensors(adapter),
            adapter_bytes=adapter,
            version=0,
            controls=ControlVariates(trained),
            references=config.references,
        )
        self._optimize = make_optimizer(config.aggregation)
        if self._averages_products:
            lora_pairs(layout.shapes)  # a layout that cannot be averaged so is an error before a round is run
        self._round: _Round | None = None
        self._closed: tuple[_Round, Standing] | None = None
        """The last round, and where the federation stood before, where it may have to be closed again."""

    def adapter(self) -> bytes:
        """The global adapter as safetensors."""
        return self._now.adapter_bytes

    def state(self) -> AggregatorState:
        """What has been committed; an open round is not part of it."""
        return self._now.encoded(self._defense)

    def restore(self, state: AggregatorState) -> None:
        """Go on from a committed state; an open round is discarded."""
        self._now, self._defense = decoded(state, self._now.controls), state.defense
        self._round, self._closed = None, None

    def open_round(
        self,
        round_index: int,
        client_ids: Sequence[str],
        learning_rate: float,
        min_updates: int | None = None,
        num_known: int | None = None,
    ) -> OpenRound:
        """Begin a round with these clients at this learning rate; returns what the other actors of the server should expect too.

        Args:
            min_updates: Admitted updates without which the round is not committed; None: the configured number.
            num_known: All clients that the federation knows, over which SCAFFOLD takes its mean; None: these and those that have
                a control variate.
        """
        training, signals = self._config.training, levels.signals_of(self._defense)
        bounds = round_bounds(
            self._config.admission,
            self._now.adapter,
            learning_rate=learning_rate,
            shadow_rate=self._defense.shadow.learning_rate if "shadow" in signals else 0.0,
            num_steps=training.steps,
            weight_decay=training.weight_decay,
            freezes_a=bool(self._frozen),
        )
        expected = OpenRound(
            round_index=round_index,
            base_version=self._now.version,
            client_ids=frozenset(client_ids),
            num_steps=training.steps,
            batch_size=training.batch_size,
            reads=signals,
            shadow_ids=frozenset(c for c in client_ids if levels.wants_shadow(self._defense, self._now.trust, c)),
            learning_rate=learning_rate,
            max_norm=bounds.max_norm,
            max_value=bounds.max_value,
            max_shadow_value=bounds.max_shadow_value,
        )
        check = UpdateCheck(
            expected=expected,
            adapter=self._now.adapter,
            layout=self._layout,
            start=self._layout.pack(self._now.adapter),
            products=bounds.products,
            frozen=self._frozen,
            control_shapes=self._now.controls.shapes if training.scaffold else None,
            max_control_norm=CLIPPING_SLACK * training.max_grad_norm,
            is_tied=bool(signals & {"real", "shadow"}),
        )
        self._round, self._closed = _Round(check=check, min_updates=min_updates or self._config.min_updates), None
        if training.scaffold:
            self._round.mean_control = self._now.controls.mean(num_known or len({*client_ids, *self._now.controls.own}))
        return expected

    def control_difference(self, client_id: str) -> bytes:
        """SCAFFOLD's c - c_i in the open round, as safetensors: what the client's gradients are corrected by.

        Raises:
            RuntimeError: no round is open, or training.scaffold is off.
        """
        mean = self._open().mean_control
        if mean is None:
            raise RuntimeError("training.scaffold is off, so there are no control variates; set it to true")
        return encode_tensors(self._now.controls.difference(client_id, mean))

    @ray.method(num_returns=2)
    def admit(self, client_id: str, update: bytes, last_delta: bytes | None = None) -> tuple[Admission, AdmittedUpdate | None]:
        """Decode and check what a client delivered, once.

        Args:
            client_id: The sender, as the server knows it.
            update: An encoded LoRAUpdate.
            last_delta: The encoded last real StepDelta, which must be the submitted delta. Not read where no level
                weighs step deltas.

        Returns:
            The answer, and the update for `close_round` and for the actors that read updates; None where it was refused.
        """
        started, current = time.perf_counter(), self._open()
        if client_id in current.rows:
            checked: CheckedUpdate | Refusal = Refusal(Reason.DUPLICATE, f"{client_id} was already received this round")
        else:
            checked = current.check.admit(client_id, update, last_delta)
            self._record(current, client_id, checked, _size(update, checked))
        current.admit_s += time.perf_counter() - started
        if isinstance(checked, Refusal):
            return Admission(client_id=client_id, admitted=False, reason=str(checked)), None
        return Admission(client_id=client_id, admitted=True, reason=None), checked.admitted

    @ray.method(num_returns=2)
    def read_reference(self, client_id: str, update: bytes) -> tuple[str, AdmittedUpdate]:
        """The update of a reference client, as the actors that measure updates read it; it is never aggregated.

        Returns:
            The client's id, by which the caller sees that it could be read, and the update.

        Raises:
            ValueError: it is not an update of this adapter.
        """
        message = decode_message(update, LoRAUpdate)
        refusal = check_tensors(message.tensors, self._layout.shapes) or check_finite(message.tensors)
        if refusal is not None:
            raise ValueError(f"reference client {client_id}: {refusal}")
        state = self._layout.pack(message.tensors).numpy()
        return client_id, AdmittedUpdate(client_id=client_id, num_samples=message.num_samples, state=state)

    def in_doubt(self, evidence: Sequence[ClientEvidence]) -> list[str]:
        """Admitted clients of which the references of earlier rounds leave open what they are, in order of id.

        Args:
            evidence: As for `close_round`; a client that the probe gave no score is not among them: it counts for nothing.
        """
        now, rounds_done = self._now, self._open().expected.round_index
        return in_doubt(
            self._defense, now.references, now.settled, rounds_done, *self._said(evidence), threshold=self._config.threshold
        )

    def close_round(
        self,
        evidence: Sequence[ClientEvidence],
        absent: Mapping[str, str] | None = None,
        references: MeasuredReferences | None = None,
        unasked: Sequence[Signal] = (),
    ) -> RoundReport:
        """Weigh, fold, and commit or skip the round; the report has a row for every sampled client.

        Args:
            evidence: On every admitted client, in any order; an admitted update without evidence counts for nothing.
            absent: Client id -> why a sampled client delivers nothing that could count.
            references: What a refresh measured: this round's bounds follow from it. None: there was no refresh, and they follow
                from what was measured last.
            unasked: Signals that levels read and nobody was asked about: they exclude nobody. The round can be reopened then.

        Raises:
            RuntimeError: no round is open, or there is evidence on a client that was not admitted.
        """
        current = self._open()
        if references is not None:
            self._now = replace(self._now, references={**self._now.references, **self._measured(current, references)})
            if references.scored:  # without scores of this round, live judges by an older bound, which settles nothing
                settled = now_settled(self._now.settled, current.expected.round_index + 1, *self._said(evidence))
                self._now = replace(self._now, settled=settled)
        before, closing = self._now, replace(current, rows=dict(current.rows), unasked=frozenset(unasked))
        report = self._close(closing, evidence, absent or {})
        self._round = None
        if unasked:
            self._closed = current, before
        return report

    def reopen_round(self) -> None:
        """Take back the closing of the last round, so that it can be closed on fuller evidence as if it had never been.

        Raises:
            RuntimeError: no round was closed with an unasked signal.
        """
        if self._closed is None:
            raise RuntimeError("no round was closed with an unasked signal; call close_round first, and say what was not asked")
        self._round, self._now = self._closed
        self._closed = None

    def _close(self, current: _Round, evidence: Sequence[ClientEvidence], absent: Mapping[str, str]) -> RoundReport:
        """Weigh and fold what there is, and move on."""
        started = time.perf_counter()
        bounds = level_bounds(self._defense, self._now.references, self._config.threshold)
        found = self._findings(current, evidence, absent, bounds)
        said = levels.weigh(
            self._defense, self._now.trust, [item.signals for item in found.values() if item.signals is not None], bounds
        )
        updates = {item.client_id: item.update for item in evidence}
        if levels.compares(self._defense) and any(said.weights.values()):
            said = self._compare(current, updates, said, bounds)
        decision = decide(
            {client_id: said.weights.get(client_id, 0.0) for client_id in found},
            min_updates=current.min_updates,
            skip_below=self._defense.skip_below,
        )
        weights = {
            client_id: self._with_minimum(weight, said.trust, client_id) for client_id, weight in sorted(said.weights.items())
        }
        for client_id, weight in weights.items():
            current.rows[client_id] = _with_verdict(current.rows[client_id], weight, said.exclusions.get(client_id))
        folded, error = None, None
        if decision.outcome == "aggregated":
            folded = self._fold(current, updates, weights)
            decision, error = self._aggregate(current, folded, decision)
            if decision.outcome != "aggregated":
                folded = None
        if decision.outcome != "no_quorum":
            self._now = replace(self._now, trust=said.trust)
        decision = replace(decision, why=decision.why + _without_verdict(bounds))
        report = self._report(current, decision, folded, error, time.perf_counter() - started)
        return replace(
            report, bounds={name: bound.limit if bound.state == "in force" else None for name, bound in bounds.items()}
        )

    def _open(self) -> _Round:
        if self._round is None:
            raise RuntimeError("no round is open; call open_round first")
        return self._round

    def _record(self, current: _Round, client_id: str, checked: CheckedUpdate | Refusal, num_bytes: int) -> None:
        """Note what became of an update; the weight comes when the round is closed."""
        if client_id not in current.expected.client_ids:
            return
        index = current.expected.round_index
        if isinstance(checked, Refusal):
            current.rows[client_id] = ClientRound.absent(index, client_id, str(checked), num_bytes)
            return
        message = checked.message
        current.measured[client_id] = levels.measure(self._defense, checked.delta)
        current.rows[client_id] = replace(
            ClientRound.absent(index, client_id, "", num_bytes),
            admitted=True,
            reason=None,
            num_samples=message.num_samples,
            update_norm=checked.norm,
            loss=message.loss,
            train_s=message.train_s,
        )

    def _said(self, evidence: Sequence[ClientEvidence]) -> tuple[dict[str, float], dict[str, float]]:
        """Client id -> the probe's P(malicious) of the update, and client id -> flatness, of admitted clients."""
        scores = {score.client_id: score.probability for item in evidence for score in scores_of(item, "update")}
        known = {client_id: probability for client_id, probability in scores.items() if probability is not None}
        return known, {name: own["spectrum"][FLATNESS] for name, own in self._open().measured.items() if "spectrum" in own}

    def _measured(self, current: _Round, references: MeasuredReferences) -> References:
        """What the levels that have a bound read of reference clients, by column."""
        wanted = referenced(self._defense, self._config.threshold)
        origin = f"round {current.expected.round_index + 1}"
        return values_of(references, self._defense, wanted, lambda item: self._weighted(current, _held(item.update), 1.0), origin)

    def _findings(
        self, current: _Round, evidence: Sequence[ClientEvidence], absent: Mapping[str, str], bounds: Mapping[str, Bound]
    ) -> dict[str, Findings]:
        """The signals of every admitted client, in order of id; a row for every sampled client."""
        expected, found = current.expected, {}
        for item in sorted(evidence, key=lambda item: item.client_id):
            row = current.rows.get(item.client_id)
            if row is None or not row.admitted:
                raise RuntimeError(f"there is evidence on {item.client_id}, whose update was not admitted this round")
            refusal = last_step_refusal(item) if current.check.is_tied else None
            if refusal is not None:
                why = Refusal(Reason.UNTIED_EVIDENCE, f"the last step delta was refused: {refusal}")
                current.rows[item.client_id] = ClientRound.absent(row.round, item.client_id, str(why), row.num_bytes)
                continue
            found[item.client_id] = self._found(current, item, row, bounds)
        for client_id in expected.client_ids - set(found):
            row = current.rows.get(client_id)
            if row is None or row.admitted:
                why = absent.get(client_id, "nothing was received" if row is None else "no_evidence: none was collected")
                num_bytes = 0 if row is None else row.num_bytes
                current.rows[client_id] = ClientRound.absent(expected.round_index, client_id, why, num_bytes)
        return found

    def _found(self, current: _Round, item: ClientEvidence, row: ClientRound, bounds: Mapping[str, Bound]) -> Findings:
        """The signals of a client, and its row with what they say."""
        signals = levels.signals_of(self._defense)
        found = find_signals(
            item,
            row.num_samples,
            current.measured[item.client_id],
            wanted=signals,
            unasked=current.unasked if item.client_id in (current.expected.shadow_ids or ()) else {*current.unasked, "shadow"},
            training=self._config.training,
            update_threshold=bounds["live"].limit if "live" in bounds else None,
        )
        said, versions = verdict(found.signals), [score.probe_version for score in item.scores if score.probe_version is not None]
        current.rows[item.client_id] = replace(
            row,
            reason=found.reason,
            num_steps_scored=sum(len(scores_of(item, signal)) for signal in signals),
            malicious_ratio=said.ratio if said else None,
            last_step_probability=said.last_probability if said else None,
            flagged=said.is_flagged if said else None,
            probe_version=max(versions, default=None),
            signals=logged(found.signals, levels.SIGNAL_COLUMNS),
        )
        return found

    def _compare(self, current: _Round, updates: Mapping[str, _Held], said: Verdict, bounds: Mapping[str, Bound]) -> Verdict:
        """Let the clients that have a weight be judged by each other."""
        kept = RoundUpdates()
        for client_id, weight in sorted(said.weights.items()):
            if weight > 0:
                kept = kept.add(self._weighted(current, _held(updates[client_id]), weight))
        compared = levels.compare(self._defense, said.trust, kept, bounds)
        for client_id, values in compared.values.items():
            row = current.rows[client_id]
            current.rows[client_id] = replace(row, signals={**row.signals, **values})
        return replace(
            compared, weights={**said.weights, **compared.weights}, exclusions={**compared.exclusions, **said.exclusions}
        )

    def _with_minimum(self, weight: float, trust: Trust, client_id: str) -> float:
        return weight if levels.is_banned(self._defense, trust, client_id) else apply_min_weight(weight, self._defense.min_weight)

    def _fold(self, current: _Round, updates: Mapping[str, _Held], weights: Mapping[str, float]) -> _Folded:
        """Give every update that weighs more than 0 to the rule, in order of client id."""
        counted = {client_id: weight for client_id, weight in weights.items() if weight > 0}
        most = self._config.aggregation.max_share
        bounded_weights = capped(counted, most)
        bounded_masses = capped({c: current.rows[c].num_samples * weight for c, weight in counted.items()}, most)
        masses, controls, accumulator = {}, {}, make_accumulator(self._config.aggregation)
        for client_id, weight in counted.items():
            update = _held(updates[client_id])
            given = self._weighted(current, update, bounded_weights[client_id])
            if most < 1:
                given = replace(given, bounded_mass=bounded_masses[client_id])
            masses[client_id] = given.mass
            accumulator.add(given)
            if update.control_variate is not None:
                controls[client_id] = weight, self._trained_layout.read(update.control_variate)
        return _Folded(masses=masses, controls=controls, accumulator=accumulator)

    def _weighted(self, current: _Round, update: AdmittedUpdate, weight: float) -> WeightedUpdate:
        """An update's delta in float64, with its weight."""
        delta = torch.from_numpy(update.state.astype(np.float64)).sub_(current.check.start)
        free = {name: tensor for name, tensor in self._layout.unpack(delta).items() if name not in self._frozen}
        return WeightedUpdate(client_id=update.client_id, delta=free, num_samples=update.num_samples, weight=weight)

    def _aggregate(self, current: _Round, folded: _Folded, decision: Decision) -> tuple[Decision, float | None]:
        """Commit what rule and optimizer make of the round.

        An aggregate with a value that float32 cannot hold is not committed: the round is skipped, and only trust moves on.

        Returns:
            The decision, which also says where f was lowered and what was lost; and the error of averaging products, if any.
        """
        rng, now = stream(self._config.seed, "aggregation", current.expected.round_index), self._now
        try:
            aggregate = folded.accumulator.finish(now.adapter, now.rule_memory, rng)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            return _not_finite(decision, f"it could not be decomposed ({error})"), None
        part = sum(folded.masses.values()) / self._divisor(current, folded)
        pseudo_gradient = {name: part * tensor for name, tensor in aggregate.delta.items()}
        move, optimizer_memory = self._optimize(now.optimizer_memory, pseudo_gradient)
        moved = {name: (now.adapter[name].double() + change).float() for name, change in move.items()}
        controls = now.controls.moved(folded.controls)
        parts = {"the adapter": moved, "the optimizer's memory": optimizer_memory, "the rule's memory": aggregate.memory}
        for what, tensors in parts.items():
            if odd := next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None):
                return _not_finite(decision, f"{what} would hold a value that is not, in {odd}"), None
        self._now = now.moved(moved, rule_memory=aggregate.memory, optimizer_memory=optimizer_memory, controls=controls)
        return replace(decision, why=decision.why + self._lowered(aggregate) + _left_out(aggregate)), aggregate.error

    def _divisor(self, current: _Round, folded: _Folded) -> float:
        """What the sum of n w delta is divided by."""
        aggregation, num_samples = self._config.aggregation, sum(row.num_samples for row in current.rows.values())
        return divisor(folded.masses.values(), num_samples, aggregation.normalisation, aggregation.max_share)

    def _lowered(self, aggregate: Aggregate) -> str:
        aggregation, assumed = self._config.aggregation, aggregate.num_attackers
        if assumed is None or assumed == aggregation.f:
            return ""
        return f"; aggregation.f={aggregation.f} was lowered to {assumed}, the most that so few clients allow"

    @property
    def _averages_products(self) -> bool:
        return self._config.aggregation.averaging == "svd"

    def _report(
        self, current: _Round, decision: Decision, folded: _Folded | None, error: float | None, seconds: float
    ) -> RoundReport:
        masses, whole = (folded.masses, self._divisor(current, folded)) if folded else ({}, math.inf)
        rows = tuple(
            replace(
                row,
                round_outcome=decision.outcome,
                share=masses.get(client_id, 0.0) / whole,
                signals={**row.signals, **levels.trust_in(self._defense, self._now.trust, client_id)},
            )
            for client_id, row in sorted(current.rows.items())
        )
        return RoundReport(
            round=current.expected.round_index,
            outcome=decision.outcome,
            why=decision.why,
            adapter_version=self._now.version,
            mean_weight=decision.mean_weight,
            clients=rows,
            averaging_error=error,
            max_norm=current.expected.max_norm,
            aggregate_s=seconds,
            admit_s=current.admit_s,
        )


def _size(update: object, checked: CheckedUpdate | Refusal) -> int:
    """Bytes of the tensors in what a client delivered, of all of it where it could not be decoded; 0 where it is not bytes."""
    if not isinstance(update, bytes):
        return 0
    is_message = not isinstance(checked, Refusal) or checked.reason is not Reason.MALFORMED
    return tensor_bytes(update) if is_message else len(update)


_Held = AdmittedUpdate | ray.ObjectRef


def _held(update: _Held) -> AdmittedUpdate:
    """The update itself, from the object store where it waited there."""
    return ray.get(update) if isinstance(update, ray.ObjectRef) else update


def _with_verdict(row: ClientRound, weight: float, exclusion: Exclusion | None) -> ClientRound:
    """The row with its weight, and why a level gives none."""
    if exclusion is None or weight > 0:
        return replace(row, weight=weight)
    return replace(
        row,
        weight=weight,
        excluded_by=exclusion.level,
        excluded_value=None if exclusion.value is None or math.isnan(exclusion.value) else exclusion.value,
        excluded_bound=exclusion.bound,
        excluded_because=exclusion.because,
    )


def _without_verdict(bounds: Mapping[str, Bound]) -> str:
    """Which levels have no bound in the round, and why."""
    said = {"abstains": "abstains", "missing": "lets nobody pass"}
    found = [f"; {name} {said[bound.state]}: {bound.why}" for name, bound in bounds.items() if bound.state != "in force"]
    return "".join(found)


def _not_finite(decision: Decision, why: str) -> Decision:
    return replace(decision, outcome="skipped", why=f"the aggregate is not finite: {why}; adapter and optimizer stay as they are")


def _left_out(aggregate: Aggregate) -> str:
    return "" if aggregate.error is None else f"; {aggregate.error:.2%} of the mean B A is beyond the rank"


AggregatorActor = ray.remote(Aggregator)
