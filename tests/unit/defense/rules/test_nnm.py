"""defense/rules/nnm.py: every update becomes the mean of those nearest to it, before any rule."""

import numpy as np
import pytest
import torch

from defense.rules import RULES
from defense.rules.nnm import mix, mixing
from tests.unit.defense.rules.builders import aggregate, collected, draw, flat, result, updates_of


def naive(rows: np.ndarray, masses: np.ndarray, f: int) -> np.ndarray:
    mixed = []
    for i, row in enumerate(rows):
        near = sorted(range(len(rows)), key=lambda j: (j != i, ((rows[j] - row) ** 2).sum(), j))[: len(rows) - f]
        mixed.append(np.average(rows[near], axis=0, weights=masses[near]))
    return np.array(mixed)


def rows_of(updates) -> np.ndarray:
    return torch.cat([updates.rows_NW(name) for name in updates.names], dim=1).numpy()


def test_each_update_is_the_mean_of_its_n_minus_f_nearest_itself_included():
    # n=4, f=1: three each. 0: 0 1 3; 1: 1 0 3; 3: 3 1 0; 9: 9 3 1.
    mixed = rows_of(mix(collected([[0, 0], [1, 0], [3, 0], [9, 0]]), f=1))[:, 0]
    np.testing.assert_allclose(mixed, [4 / 3, 4 / 3, 4 / 3, 13 / 3], rtol=1e-15)


def test_mixtures_are_weighted_by_samples_times_weight():
    # n=3, f=1: two each. Masses 10, 30, 20.
    mixed = rows_of(mix(collected([[0, 0], [1, 0], [5, 0]], [10, 30, 40], [1, 1, 0.5]), f=1))[:, 0]
    np.testing.assert_allclose(mixed, [30 / 40, 30 / 40, (30 + 100) / 50], rtol=1e-15)


def test_itself_comes_first_and_of_equal_distances_the_lower_client():
    distances = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    assert mixing(distances, torch.ones(3).double(), 2).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert mixing(distances, torch.ones(3).double(), 1).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("f", [0, 2, 5])
def test_a_naive_implementation_agrees_and_so_does_the_mean_of_its_result(seed, f):
    drawn = draw(seed)
    expected = naive(drawn.rows, drawn.masses, f)
    np.testing.assert_allclose(rows_of(mix(drawn.collected, f=f)), expected, rtol=1e-12, atol=1e-13)
    mean = np.average(expected, axis=0, weights=drawn.masses)
    np.testing.assert_allclose(drawn.result("fedavg", pre="nnm", f=f), mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_it_composes_with_every_rule(rule):
    # The same as the rule over mixtures that were made beforehand, up to their rounding to float32.
    drawn, f = draw(2), {"bulyan": 2, "krum": 4, "multi_krum": 4}.get(rule, 5)  # as many of 5 as 11 clients allow
    settings: dict = {"noise": 0} if rule == "flame" else {}
    found = aggregate(rule, drawn.updates, pre="nnm", f=5, **settings)
    mixed = updates_of(naive(drawn.rows, drawn.masses, f), drawn.samples, drawn.weights)
    alone = aggregate(rule, mixed, f=f, **settings)
    # Mixtures of the same clients differ by rounding only, which decides on the spread of residuals.
    np.testing.assert_allclose(flat(found.delta), flat(alone.delta), atol=1e-2 if rule == "residual" else 1e-5)
    assert found.num_attackers == f


def test_a_huge_attacker_is_mixed_away():
    rows = draw(0, 9).rows * 0.1 + 1
    rows[3] = 1e6
    for rule in ("median", "krum"):
        np.testing.assert_allclose(result(rule, rows, pre="nnm", f=1), np.ones(7), atol=0.2)
    # In the plain mean one mixture of nine, the attacker's own, still holds a ninth of it, which is why NNM needs a rule.
    assert 1e3 < np.abs(result("fedavg", rows, pre="nnm", f=1) - 1).max() < 2e4
