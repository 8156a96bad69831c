"""How far honest training can move an adapter in a round, ahead of every level (docs/method.md section 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from defense.admission.products import ProductBounds
from defense.admission.settings import AdmissionConfig

Adapter = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundBounds:
    """How far messages of one round may have moved; None: no bound."""

    max_norm: float
    """Largest L2 norm of a delta over all its tensors."""
    max_value: float | None
    """Largest absolute value in a delta of the real branch or of an update."""
    max_shadow_value: float | None
    """The same in a delta of the shadow branch."""
    products: ProductBounds | None
    """How far an update may move each module's B A."""


def round_bounds(
    config: AdmissionConfig,
    adapter: Adapter,
    *,
    learning_rate: float,
    shadow_rate: float,
    num_steps: int,
    weight_decay: float,
    freezes_a: bool,
) -> RoundBounds:
    """The bounds that follow from the settings and the global adapter.

    Args:
        adapter: The global adapter.
        learning_rate: Of the real branch.
        shadow_rate: Of the shadow branch; 0 where none is trained.
        freezes_a: Whether nobody trains A.
    """
    num_values = sum(tensor.numel() for tensor in adapter.values())
    rate = max(learning_rate, shadow_rate)
    reach, shadow_reach = (_reach(adapter, lr, num_steps, weight_decay) for lr in (learning_rate, shadow_rate))
    value, product = config.value_factor, config.product_factor
    return RoundBounds(
        max_norm=config.max_norm or adamw_norm_bound(config.norm_factor, rate, num_steps, num_values),
        max_value=None if value is None else value * reach,
        max_shadow_value=None if value is None else value * shadow_reach,
        products=None if product is None else ProductBounds(adapter, product, 0.0 if freezes_a else reach, reach),
    )


def _reach(adapter: Adapter, learning_rate: float, num_steps: int, weight_decay: float) -> float:
    """How far AdamW moves a value in a round at most; weight decay pulls by its share of the largest value."""
    reach = adamw_reach(learning_rate, num_steps)
    largest = max(float(tensor.abs().max()) for tensor in adapter.values()) + reach
    return reach + learning_rate * weight_decay * num_steps * largest


def adamw_norm_bound(factor: float, learning_rate: float, num_steps: int, num_values: int) -> float:
    """A bound on an honest delta's norm: AdamW moves each value by about the learning rate per step."""
    return factor * learning_rate * num_steps * math.sqrt(num_values)


def adamw_reach(learning_rate: float, num_steps: int, betas: tuple[float, float] = (0.9, 0.999)) -> float:
    """How far AdamW without weight decay can move a value in its first steps, whatever the gradients are.

    Step t moves it by the learning rate times |m / (1 - b1^t)| / sqrt(v / (1 - b2^t)). By Cauchy and Schwarz |m| is at most
    sqrt(v) times sqrt(sum_i ((1 - b1) b1^i)^2 / ((1 - b2) b2^i)), so the ratio has a bound in which no gradient occurs
    (Kingma and Ba 2015, section 2.1, discuss the same ratio). For 10 steps the sum of the bounds is 10.17.

    Example: one step moves a value by the learning rate at most.
    """
    first, second = betas
    reach = most = 0.0
    for step in range(1, num_steps + 1):
        if share := first ** (step - 1):  # it is 0 long before that of the second moment, by which it is divided
            most += ((1 - first) * share) ** 2 / ((1 - second) * second ** (step - 1))
        reach += math.sqrt(most * (1 - second**step)) / (1 - first**step)
    return learning_rate * reach
