"""From the weighed updates of a round to where the federation stands next: fold, divide, step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.round_in_progress import Held, RoundInProgress, held
from actors.scaffold import Gradient
from actors.standing import Standing
from actors.state_vector import StateVector
from defense.gate import Decision
from defense.influence import capped, divisor
from defense.rules.accumulator import Accumulator, make_accumulator
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import Aggregate

if TYPE_CHECKING:
    from defense.optimizers import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What the rule was given in a round."""

    masses: Mapping[str, float]
    """n w of each client that weighs more than 0, as `max_share` leaves it."""
    divisor: float
    """What the sum of n w delta is divided by."""
    controls: Mapping[str, tuple[float, Gradient]]
    """Weight and c_i+ of each of them, with SCAFFOLD."""
    accumulator: Accumulator
    """What the rule was given."""


def fold(
    config: AggregationConfig,
    current: RoundInProgress,
    updates: Mapping[str, Held],
    weights: Mapping[str, float],
    control_layout: StateVector,
) -> Folded:
    """Give every update that weighs more than 0 to the rule, in order of client id."""
    counted = {client_id: weight for client_id, weight in weights.items() if weight > 0}
    most = config.max_share
    bounded_weights = capped(counted, most)
    bounded_masses = capped({c: current.rows[c].num_samples * weight for c, weight in counted.items()}, most)
    masses, controls, accumulator = {}, {}, make_accumulator(config)
    for client_id, weight in counted.items():
        update = held(updates[client_id])
        given = current.weighted(update, bounded_weights[client_id])
        if most < 1:
            given = replace(given, bounded_mass=bounded_masses[client_id])
        masses[client_id] = given.mass
        accumulator.add(given)
        if update.control_variate is not None:
            controls[client_id] = weight, control_layout.read(update.control_variate)
    num_samples = sum(row.num_samples for row in current.rows.values())
    whole = divisor(masses.values(), num_samples, config.normalisation, most)
    return Folded(masses=masses, divisor=whole, controls=controls, accumulator=accumulator)


def moved(
    config: AggregationConfig,
    optimize: Optimizer,
    now: Standing,
    folded: Folded,
    decision: Decision,
    rng: np.random.Generator,
) -> tuple[Standing, Decision, float | None]:
    """What rule and optimizer make of the round.

    An aggregate with a value that float32 cannot hold is not committed: the round is skipped.

    Returns:
        Where the federation stands then; the decision, which also says where f was lowered and what was lost; and the error of
        averaging products, if any.
    """
    try:
        aggregate = folded.accumulator.finish(now.adapter, now.rule_memory, rng)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
        return now, _not_finite(decision, f"it could not be decomposed ({error})"), None
    part = sum(folded.masses.values()) / folded.divisor
    pseudo_gradient = {name: part * tensor for name, tensor in aggregate.delta.items()}
    move, optimizer_memory = optimize(now.optimizer_memory, pseudo_gradient)
    tensors = {name: (now.adapter[name].double() + change).float() for name, change in move.items()}
    parts = {"the adapter": tensors, "the optimizer's memory": optimizer_memory, "the rule's memory": aggregate.memory}
    for what, own in parts.items():
        if odd := next((name for name, tensor in own.items() if not bool(torch.isfinite(tensor).all())), None):
            return now, _not_finite(decision, f"{what} would hold a value that is not, in {odd}"), None
    controls = now.controls.moved(folded.controls)
    after = now.moved(tensors, rule_memory=aggregate.memory, optimizer_memory=optimizer_memory, controls=controls)
    return after, replace(decision, why=decision.why + _lowered(config, aggregate) + _left_out(aggregate)), aggregate.error


def _not_finite(decision: Decision, why: str) -> Decision:
    return replace(decision, outcome="skipped", why=f"the aggregate is not finite: {why}; adapter and optimizer stay as they are")


def _lowered(config: AggregationConfig, aggregate: Aggregate) -> str:
    assumed = aggregate.num_attackers
    if assumed is None or assumed == config.f:
        return ""
    return f"; aggregation.f={config.f} was lowered to {assumed}, the most that so few clients allow"


def _left_out(aggregate: Aggregate) -> str:
    return "" if aggregate.error is None else f"; {aggregate.error:.2%} of the mean B A is beyond the rank"
