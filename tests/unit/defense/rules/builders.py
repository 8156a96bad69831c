"""Small rounds for the tests of aggregation rules: updates of two tensors, and the way from a matrix and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from defense.config import AggregationConfig
from defense.rules import make_rule
from defense.rules.gather import Gathered, add
from defense.rules.rule import Aggregate, Memory, Update

NAMES = ("a", "b")


def split(row: Sequence[float], rows_of_a: int = 1) -> dict[str, torch.Tensor]:
    """A vector as two tensors: all but the last value as a matrix `a` of so many rows, the last one as `b`."""
    values = torch.tensor(np.asarray(row), dtype=torch.float64)
    return {"a": values[:-1].reshape(rows_of_a, -1), "b": values[-1:]}


def flat(delta) -> np.ndarray:
    """The tensors of `split`, or of any update, as one vector in order of name."""
    return np.concatenate([delta[name].double().reshape(-1).numpy() for name in sorted(delta)])


def updates_of(rows, samples=None, weights=None) -> list[Update]:
    """A client `c00`, `c01` ... per row; 10 samples and weight 1 unless given."""
    count = len(rows)
    samples, weights = samples if samples is not None else [10] * count, weights if weights is not None else [1.0] * count
    return [
        Update(client_id=f"c{i:02d}", delta=split(row), num_samples=int(n), weight=float(w))
        for i, (row, n, w) in enumerate(zip(rows, samples, weights, strict=True))
    ]


def gathered(rows, samples=None, weights=None) -> Gathered:
    state = Gathered()
    for update in updates_of(rows, samples, weights):
        state = add(state, update)
    return state


def aggregate(
    config: AggregationConfig | str, updates: Sequence[Update], *, memory: Memory | None = None, seed: int = 0, **settings
) -> Aggregate:
    """What a configured rule makes of the updates, given in their order."""
    config = AggregationConfig(rule=config, **settings) if isinstance(config, str) else config
    rule = make_rule(config)
    state = rule.init()
    for update in updates:
        state = rule.add(state, update)
    return rule.finish(state, memory or {}, np.random.default_rng(seed))


@dataclass(frozen=True)
class Drawn:
    """A random round; values are float32 numbers in float64, as deltas of float32 adapters are."""

    rows: np.ndarray
    samples: np.ndarray
    weights: np.ndarray

    @property
    def masses(self) -> np.ndarray:
        return self.samples * self.weights

    @property
    def updates(self) -> list[Update]:
        return updates_of(self.rows, self.samples, self.weights)

    @property
    def gathered(self) -> Gathered:
        return gathered(self.rows, self.samples, self.weights)


def draw(seed: int, num_clients: int = 11, num_values: int = 7, *, equal_weights: bool = False) -> Drawn:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_clients, num_values)).astype(np.float32).astype(np.float64)
    weights = np.full(num_clients, 0.3) if equal_weights else rng.uniform(0.05, 1, num_clients)
    return Drawn(rows, rng.integers(1, 200, num_clients), weights)
