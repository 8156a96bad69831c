"""Server optimizers: from a round's pseudo-gradient to how far the global adapter moves. One file each, pure, in float64.

Every optimizer is one function `step(state, pseudo_gradient) -> (move, state)`. The pseudo-gradient is what the aggregation
rule makes of the clients' deltas, so the adapter moves along it and not against it. The state is a flat dict of tensors,
empty at first and never changed in place; it advances only in aggregated rounds, since only these call it (CONTRACT.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from defense.config import AggregationConfig, OptimizerName
from defense.optimizers import fedadagrad, fedadam, fedavgm, fedyogi, none
from defense.rules.rule import Delta, Memory

Optimizer = Callable[[Memory, Delta], tuple[dict[str, torch.Tensor], Memory]]


def make_optimizer(config: AggregationConfig) -> Optimizer:
    """The optimizer that `config.optimizer` names, with its parameters."""
    optimizers: dict[OptimizerName, Optimizer] = {
        "none": none.step,
        "fedavgm": partial(fedavgm.step, **config.fedavgm.model_dump()),
        "fedadagrad": partial(fedadagrad.step, **config.fedadagrad.model_dump()),
        "fedyogi": partial(fedyogi.step, **config.fedyogi.model_dump()),
        "fedadam": partial(fedadam.step, **config.fedadam.model_dump()),
    }
    return optimizers[config.optimizer]
