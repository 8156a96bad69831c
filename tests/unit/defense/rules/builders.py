"""Small rounds for the tests of aggregation rules: updates of two tensors, and the way from a matrix and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from defense.rules.accumulator import make_accumulator
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import Aggregate, RoundUpdates, WeightedUpdate
from defense.tensors import Tensors


def split(row: Sequence[float] | np.ndarray, rows_of_a: int = 1) -> dict[str, torch.Tensor]:
    """A vector as two tensors: all but the last value as a matrix `a` of so many rows, the last one as `b`."""
    values = torch.tensor(np.asarray(row), dtype=torch.float64)
    return {"a": values[:-1].reshape(rows_of_a, -1), "b": values[-1:]}


def flat(delta: Tensors) -> np.ndarray:
    """The tensors of `split`, or of any update, as one vector in order of name."""
    return np.concatenate([delta[name].double().reshape(-1).numpy() for name in sorted(delta)])


def updates_of(rows, samples=None, weights=None) -> list[WeightedUpdate]:
    """A client `c00`, `c01` ... per row; 10 samples and weight 1 unless given."""
    count = len(rows)
    samples, weights = samples if samples is not None else [10] * count, weights if weights is not None else [1.0] * count
    return [
        WeightedUpdate(client_id=f"c{i:02d}", delta=split(row), num_samples=int(n), weight=float(w))
        for i, (row, n, w) in enumerate(zip(rows, samples, weights, strict=True))
    ]


def collected(rows, samples=None, weights=None) -> RoundUpdates:
    updates = RoundUpdates()
    for update in updates_of(rows, samples, weights):
        updates = updates.add(update)
    return updates


def aggregate(
    rule: str,
    updates: Sequence[WeightedUpdate],
    *,
    memory: Tensors | None = None,
    seed: int = 0,
    f: int | None = None,
    pre: str = "none",
    **settings,
) -> Aggregate:
    """What the rule with its settings makes of the updates, given in their order."""
    config = {"rule": rule, "f": f, "pre": pre} | ({rule: settings} if settings else {})
    accumulator = make_accumulator(AggregationConfig.model_validate(config))
    for update in updates:
        accumulator.add(update)
    return accumulator.finish({}, memory or {}, np.random.default_rng(seed))


def result(rule: str, rows, samples=None, weights=None, **given) -> np.ndarray:
    """The pseudo-gradient of a rule over the rows, as a vector; `given` as for `aggregate`."""
    return flat(aggregate(rule, updates_of(rows, samples, weights), **given).delta)


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
    def mean(self) -> np.ndarray:
        return np.average(self.rows, axis=0, weights=self.masses)

    @property
    def updates(self) -> list[WeightedUpdate]:
        return updates_of(self.rows, self.samples, self.weights)

    @property
    def collected(self) -> RoundUpdates:
        return collected(self.rows, self.samples, self.weights)

    def result(self, rule: str, **given) -> np.ndarray:
        return flat(aggregate(rule, self.updates, **given).delta)


def draw(seed: int, num_clients: int = 11, num_values: int = 7, *, equal_weights: bool = False) -> Drawn:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_clients, num_values)).astype(np.float32).astype(np.float64)
    weights = np.full(num_clients, 0.3) if equal_weights else rng.uniform(0.05, 1, num_clients)
    return Drawn(rows, rng.integers(1, 200, num_clients), weights)
