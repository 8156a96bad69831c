"""The optimizers of local training, by name. The state is fresh with each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from actors.config import OptimizerName

MOMENTUM = 0.9
"""Of sgd. PyTorch's is v <- 0.9 v + g and theta <- theta - lr v, so that ten equal gradients g move a value by 41.4 lr g."""


def make_optimizer(
    name: OptimizerName, parameters: Sequence[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A fresh optimizer.

    adamw: Loshchilov and Hutter (ICLR 2019), betas 0.9 and 0.999, decay decoupled from the gradient; the paper's.
    sgd: with Polyak's heavy-ball momentum (1964) at the usual 0.9.
    adagrad: Duchi, Hazan and Singer (JMLR 2011), algorithm 1 with diagonal matrices. No step is longer than AdamW's first.

    The latter two add weight_decay x theta to the gradient, after clipping.
    """
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=MOMENTUM, weight_decay=weight_decay)
    if name == "adagrad":
        return torch.optim.Adagrad(parameters, lr=learning_rate, weight_decay=weight_decay)
    raise ValueError(f"optimizer={name} is none of adamw, sgd and adagrad")
