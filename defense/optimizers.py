"""Server optimizers: from a round's pseudo-gradient to the move of the global adapter. Pure, in float64.

An optimizer is its settings with a method `step(state, pseudo_gradient) -> (move, state)`. The pseudo-gradient is what the
aggregation rule makes of the clients' deltas, so the adapter moves along it and not against it. The state is a flat dict of
tensors, empty at first and never changed in place. It advances only in aggregated rounds. The module imports no torch, so that
the command line can read the settings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from defense.settings import Settings

if TYPE_CHECKING:
    import torch

    from defense.rules.config import AggregationConfig
    from defense.tensors import Tensors

    Step = tuple[dict[str, torch.Tensor], Tensors]
    """The move, and the state for the next aggregated round."""
    Optimizer = Callable[[Tensors, Tensors], Step]
    """(state, pseudo-gradient) -> step."""

_MOMENTUM, _FIRST, _SECOND = "momentum/", "first_moment/", "second_moment/"


class FedAvgMConfig(Settings):
    """Server momentum (Hsu, Qi and Brown 2019, arXiv 1909.06335).

    v <- beta v + g, and the adapter moves by eta v: a lasting pseudo-gradient goes 1 / (1 - beta) times as far as without.
    """

    learning_rate: PositiveFloat = 1.0
    """eta; the paper's."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """beta; the paper tries 0 to 0.997, and 0.9 is what Reddi et al. compare with."""

    def step(self, state: Tensors, pseudo_gradient: Tensors) -> Step:
        """eta v, and v as the state."""
        velocity = {name: self.momentum * state.get(_MOMENTUM + name, 0.0) + tensor for name, tensor in pseudo_gradient.items()}
        move = {name: self.learning_rate * tensor for name, tensor in velocity.items()}
        return move, {_MOMENTUM + name: tensor for name, tensor in velocity.items()}


class AdaptiveConfig(Settings):
    """What the adaptive optimizers share (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, ICLR 2021,
    arXiv 2003.00295, algorithm 2).

    m <- beta1 m + (1 - beta1) g from m = 0, then v as the optimizer says from v = tau^2, and the adapter moves by
    eta m / (sqrt(v) + tau). As in the paper, there is no bias correction.
    """

    learning_rate: PositiveFloat = 1e-3
    """eta. The paper has no default, it searches the best for each task. Ours is OpenFedLLM's (arXiv 2402.06954), for LoRA at
    clients' learning rates near 5e-5. A value moves by up to about eta in a round, so eta should be near what clients move it
    by."""
    tau: PositiveFloat = 1e-3
    """How adaptive the steps are, the less the larger; the paper's for all its tasks. v starts from its square."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the momentum; the paper's."""

    @abstractmethod
    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        """The new v from the old one and from g squared, value by value."""

    def step(self, state: Tensors, pseudo_gradient: Tensors) -> Step:
        """The move, and both moments as the state."""
        move, new = {}, {}
        for name, gradient in pseudo_gradient.items():
            start = gradient.new_full(gradient.shape, self.tau**2)
            m = self.beta1 * state.get(_FIRST + name, 0.0) + (1 - self.beta1) * gradient
            v = self.second_moment(state.get(_SECOND + name, start), gradient.square())
            move[name] = self.learning_rate * m / (v.sqrt() + self.tau)
            new |= {_FIRST + name: m, _SECOND + name: v}
        return move, new


class FedAdagradConfig(AdaptiveConfig):
    """v <- v + g^2, so steps only ever get shorter."""

    beta1: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the momentum; the paper uses none."""

    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return v + squared


class FedYogiConfig(AdaptiveConfig):
    """v <- v - (1 - beta2) g^2 sign(v - g^2).

    v grows as FedAdam's does and falls by no more than (1 - beta2) g^2 at a time, so steps do not suddenly become long.
    """

    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the second moment; the paper's."""

    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return v - (1 - self.beta2) * squared * (v - squared).sign()


class FedAdamConfig(AdaptiveConfig):
    """v <- beta2 v + (1 - beta2) g^2."""

    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the second moment; the paper's."""

    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return self.beta2 * v + (1 - self.beta2) * squared


def unchanged(state: Tensors, pseudo_gradient: Tensors) -> Step:
    """No optimizer: the adapter moves by the pseudo-gradient itself, as in FedAvg. The paper's way."""
    return dict(pseudo_gradient), state


OPTIMIZERS: dict[str, Callable[[AggregationConfig], Optimizer]] = {
    "none": lambda _: unchanged,
    "fedavgm": lambda config: config.fedavgm.step,
    "fedadagrad": lambda config: config.fedadagrad.step,
    "fedyogi": lambda config: config.fedyogi.step,
    "fedadam": lambda config: config.fedadam.step,
}
"""Value of `aggregation.optimizer` -> the optimizer with its settings."""


def make_optimizer(config: AggregationConfig) -> Optimizer:
    """The optimizer that `config.optimizer` names."""
    return OPTIMIZERS[config.optimizer](config)
