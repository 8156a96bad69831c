"""AggregatorActor: owns the global adapter and the trust in each client; admits, weighs, aggregates, skips or commits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import ray
import torch

from actors.admission import UpdateCheck
from actors.config import TrainingConfig
from actors.folding import Folded, fold, moved
from actors.messages import (
    AdapterLayout,
    Admission,
    AdmittedUpdate,
    AggregatorState,
    ClientEvidence,
    LoRAUpdate,
    MeasuredReferences,
    RoundReport,
)
from actors.reference_values import values_of
from actors.round_in_progress import Held, RoundInProgress, held
from actors.scaffold import CLIPPING_SLACK, ControlVariates
from actors.seeding import stream
from actors.standing import Standing, decoded
from actors.state_vector import StateVector
from actors.wire import decode_message, decode_tensors, encode_tensors
from defense import levels
from defense.admission.bounds import round_bounds
from defense.admission.checks import OpenRound, Refusal, check_finite, check_tensors
from defense.admission.settings import AdmissionConfig
from defense.averaging.pairs import frozen_names, lora_pairs
from defense.bounds import Bound
from defense.config import DefenseConfig
from defense.doubt import in_doubt, now_settled
from defense.gate import Decision, apply_min_weight, decide
from defense.level_bounds import References, level_bounds, referenced
from defense.levels.level import Trust, Verdict
from defense.optimizers import make_optimizer
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import RoundUpdates
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
        self._round: RoundInProgress | None = None
        self._closed: tuple[RoundInProgress, Standing] | None = None
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
        self._closed = None
        self._round = RoundInProgress(
            check=check,
            training=training,
            defense=self._defense,
            min_updates=min_updates or self._config.min_updates,
        )
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
        checked = self._open().admit(client_id, update, last_delta)
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
        now, current = self._now, self._open()
        return in_doubt(
            self._defense,
            now.references,
            now.settled,
            current.expected.round_index,
            *current.said(evidence),
            threshold=self._config.threshold,
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
                settled = now_settled(self._now.settled, current.expected.round_index + 1, *current.said(evidence))
                self._now = replace(self._now, settled=settled)
        before = self._now
        report = self._close(current.copy(unasked), evidence, absent or {})
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

    def _close(self, current: RoundInProgress, evidence: Sequence[ClientEvidence], absent: Mapping[str, str]) -> RoundReport:
        """Weigh and fold what there is, and move on."""
        started = time.perf_counter()
        bounds = level_bounds(self._defense, self._now.references, self._config.threshold)
        found = current.find(evidence, absent, bounds)
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
            current.decide(client_id, weight, said.exclusions.get(client_id))
        folded, error = None, None
        if decision.outcome == "aggregated":
            aggregation, rng = self._config.aggregation, stream(self._config.seed, "aggregation", current.expected.round_index)
            folded = fold(aggregation, current, updates, weights, self._trained_layout)
            self._now, decision, error = moved(aggregation, self._optimize, self._now, folded, decision, rng)
            if decision.outcome != "aggregated":
                folded = None
        if decision.outcome != "no_quorum":
            self._now = replace(self._now, trust=said.trust)
        decision = replace(decision, why=decision.why + _without_verdict(bounds))
        report = self._report(current, decision, folded, error, time.perf_counter() - started)
        return replace(
            report, bounds={name: bound.limit if bound.state == "in force" else None for name, bound in bounds.items()}
        )

    def _open(self) -> RoundInProgress:
        if self._round is None:
            raise RuntimeError("no round is open; call open_round first")
        return self._round

    def _measured(self, current: RoundInProgress, references: MeasuredReferences) -> References:
        """What the levels that have a bound read of reference clients, by column."""
        wanted = referenced(self._defense, self._config.threshold)
        origin = f"round {current.expected.round_index + 1}"
        return values_of(references, self._defense, wanted, lambda item: current.weighted(held(item.update), 1.0), origin)

    def _compare(
        self, current: RoundInProgress, updates: Mapping[str, Held], said: Verdict, bounds: Mapping[str, Bound]
    ) -> Verdict:
        """Let the clients that have a weight be judged by each other."""
        kept = RoundUpdates()
        for client_id, weight in sorted(said.weights.items()):
            if weight > 0:
                kept = kept.add(current.weighted(held(updates[client_id]), weight))
        compared = levels.compare(self._defense, said.trust, kept, bounds)
        for client_id, values in compared.values.items():
            current.note(client_id, values)
        return replace(
            compared, weights={**said.weights, **compared.weights}, exclusions={**compared.exclusions, **said.exclusions}
        )

    def _with_minimum(self, weight: float, trust: Trust, client_id: str) -> float:
        return weight if levels.is_banned(self._defense, trust, client_id) else apply_min_weight(weight, self._defense.min_weight)

    @property
    def _averages_products(self) -> bool:
        return self._config.aggregation.averaging == "svd"

    def _report(
        self, current: RoundInProgress, decision: Decision, folded: Folded | None, error: float | None, seconds: float
    ) -> RoundReport:
        for client_id in current.rows:
            current.note(client_id, levels.trust_in(self._defense, self._now.trust, client_id))
        shares = {client_id: mass / folded.divisor for client_id, mass in folded.masses.items()} if folded else {}
        rows = tuple(
            replace(row, round_outcome=decision.outcome, share=shares.get(client_id, 0.0))
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


def _without_verdict(bounds: Mapping[str, Bound]) -> str:
    """Which levels have no bound in the round, and why."""
    said = {"abstains": "abstains", "missing": "lets nobody pass"}
    found = [f"; {name} {said[bound.state]}: {bound.why}" for name, bound in bounds.items() if bound.state != "in force"]
    return "".join(found)


AggregatorActor = ray.remote(Aggregator)
