"""The linear LoRA-Probe: one layer d -> 1 with a sigmoid (METHOD.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from probe.classifiers.numbers import NUMBERS_FILE, check_finite, read_numbers, write_numbers
from probe.config import LinearRecipe
from probe.logistic import sigmoid


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """P(malicious) = sigmoid(weight . x + bias)."""

    weight: np.ndarray
    """(d,) float32."""
    bias: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (n,) float64 of features (n, d).

        Each row is reduced by itself in float64 in a fixed order, so a score does not depend on what else is scored
        in the same call.
        """
        return np.array([sigmoid(logit) for logit in self.logits(features)])

    def logits(self, features: np.ndarray) -> list[float]:
        """weight . x + bias of each row, accumulated in float64."""
        weight = self.weight.astype(np.float64)
        return [float(np.add.reduce(row.astype(np.float64) * weight)) + self.bias for row in features]

    def files(self) -> dict[str, bytes]:
        """See `probe.classifiers`."""
        return write_numbers({"weight": self.weight, "bias": np.array([self.bias])})

    @staticmethod
    def load(files: Mapping[str, bytes]) -> LinearProbe:
        """From `files()`; raises ValueError when they cannot be used."""
        weight, bias = read_numbers(files, "weight", "bias")
        if weight.ndim != 1 or bias.size != 1:
            raise ValueError(f"{NUMBERS_FILE}: expected a weight vector and one bias, got shapes {weight.shape} and {bias.shape}")
        return LinearProbe(weight=weight, bias=bias.item())

    @property
    def num_values(self) -> int:
        """d: how many values a feature has."""
        return len(self.weight)


def fit_linear(
    features: np.ndarray, labels: np.ndarray, validation: np.ndarray, recipe: LinearRecipe, *, stop_early: bool = True
) -> LinearProbe:
    """Fit by AdamW on the weighted cross-entropy.

    Args:
        features: (n, d) float32, one row per local step.
        labels: (n,) 1 for malicious, 0 for benign; both classes among the rows that are not held out.
        validation: (n,) true for the rows that are held out (`probe.splits`).
        stop_early: Return the parameters of the epoch with the lowest loss on them, and stop when it falls no more.

    Raises:
        ValueError: a feature that is not finite.
    """
    check_finite(features)
    x, y = torch.from_numpy(np.asarray(features, dtype=np.float32)), torch.from_numpy(labels).float()
    train, held = torch.from_numpy(np.flatnonzero(~validation)), torch.from_numpy(np.flatnonzero(validation))
    num_malicious = float(y[train].sum())
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor((len(train) - num_malicious) / num_malicious))
    generator = torch.Generator().manual_seed(recipe.seed)
    best = _descend(draw_layer(x.shape[1], generator), loss_of, x, y, train, held, recipe, generator, stop_early)
    return LinearProbe(weight=best["weight"][0].numpy(), bias=float(best["bias"][0]))


def draw_layer(width: int, generator: torch.Generator) -> torch.nn.Linear:
    """A linear layer with torch's usual initialisation, drawn without the global random state."""
    layer, bound = torch.nn.utils.skip_init(torch.nn.Linear, width, 1), width**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _descend(
    layer, loss_of, x, y, train, held, recipe: LinearRecipe, generator: torch.Generator, stop_early: bool
) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    best, best_loss, stale = _copy(layer), math.inf, 0
    batches = _Batches(x, y, train, recipe.batch_size, generator)
    for _ in range(recipe.max_epochs):
        for inputs, labels in batches:
            loss = loss_of(layer(inputs)[:, 0], labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), recipe.max_grad_norm)
            optimizer.step()
        if not stop_early:
            continue
        with torch.no_grad():
            held_loss = float(loss_of(layer(x[held])[:, 0], y[held]))
        if held_loss < best_loss - recipe.min_improvement:
            best, best_loss, stale = _copy(layer), held_loss, 0
        else:
            stale += 1
            if stale >= recipe.patience:
                break
    return best if stop_early else _copy(layer)


class _Batches:
    """The batches of an epoch, drawn anew each time it is iterated; all rows as they are where one batch holds them."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, size: int, generator: torch.Generator) -> None:
        self._x, self._y, self._size, self._generator = x[rows], y[rows], size, generator

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if len(self._y) <= self._size:
            yield self._x, self._y
            return
        for rows in torch.randperm(len(self._y), generator=self._generator).split(self._size):
            yield self._x[rows], self._y[rows]


def _copy(layer: torch.nn.Linear) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}
