"""defense/rules/nnm.py: every update becomes the mean of those nearest to it, before any rule."""

from typing import get_args

import numpy as np
import pytest
import torch

from defense.config import AggregationConfig, RuleName
from defense.rules import krum
from defense.rules.nnm import mix, mixing
from tests.unit.defense.rules.builders import aggregate, draw, flat, gathered, updates_of


def naive(rows: np.ndarray, masses: np.ndarray, f: int) -> np.ndarray:
    mixed = []
    for i, row in enumerate(rows):
        near = sorted(range(len(rows)), key=lambda j: (j != i, ((rows[j] - row) ** 2).sum(), j))[: len(rows) - f]
        mixed.append(np.average(rows[near], axis=0, weights=masses[near]))
    return np.array(mixed)


def rows_of(state) -> np.ndarray:
    return torch.cat([state.rows_NW(name) for name in state.names], dim=1).numpy()


def test_each_update_is_the_mean_of_its_n_minus_f_nearest_itself_included():
    # n=4, f=1: three each. 0: 0 1 3; 1: 1 0 3; 3: 3 1 0; 9: 9 3 1.
    mixed = rows_of(mix(gathered([[0, 0], [1, 0], [3, 0], [9, 0]]), f=1))[:, 0]
    np.testing.assert_allclose(mixed, [4 / 3, 4 / 3, 4 / 3, 13 / 3], rtol=1e-15)


def test_mixtures_are_weighted_by_samples_times_weight():
    # n=3, f=1: two each. Masses 10, 30, 20.
    mixed = rows_of(mix(gathered([[0, 0], [1, 0], [5, 0]], samples=[10, 30, 40], weights=[1, 1, 0.5]), f=1))[:, 0]
    np.testing.assert_allclose(mixed, [30 / 40, 30 / 40, (30 + 100) / 50], rtol=1e-15)


def test_itself_comes_first_and_of_equal_distances_the_lower_client():
    distances = torch.tensor([[0, 0, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.float64)
    assert mixing(distances, torch.ones(3).double(), 2).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert mixing(distances, torch.ones(3).double(), 1).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("f", [0, 2, 5])
def test_a_naive_implementation_agrees_and_so_do_rules_on_its_result(seed, f):
    drawn = draw(seed)
    expected = naive(drawn.rows, drawn.masses, f)
    mixed = mix(drawn.gathered, f=f)
    np.testing.assert_allclose(rows_of(mixed), expected, rtol=1e-12, atol=1e-13)
    squares = ((expected[:, None] - expected) ** 2).sum(-1)
    scores = np.sort(squares, axis=1)[:, 1:8].sum(1)  # f=2: the 11 - 2 - 2 nearest others
    if f == 2:
        np.testing.assert_allclose(flat(krum.aggregate(mixed, f=2)), expected[scores.argmin()], rtol=1e-12, atol=1e-13)
    whole = flat(aggregate("fedavg", drawn.updates, pre="nnm", f=f).delta)
    np.testing.assert_allclose(whole, np.average(expected, axis=0, weights=drawn.masses), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", get_args(RuleName))
def test_it_composes_with_every_rule(rule):
    # The same as the rule over mixtures that were made beforehand, up to their rounding to float32.
    drawn = draw(2)
    found = aggregate(AggregationConfig(rule=rule, pre="nnm", f=5, flame={"noise": 0}), drawn.updates)
    mixed = updates_of(naive(drawn.rows, drawn.masses, found.num_attackers), drawn.samples, drawn.weights)
    alone = aggregate(AggregationConfig(rule=rule, f=found.num_attackers, flame={"noise": 0}), mixed)
    # Mixtures of the same clients differ by rounding only, which decides on the spread of residuals.
    np.testing.assert_allclose(flat(found.delta), flat(alone.delta), atol=1e-2 if rule == "residual" else 1e-5)
    assert found.num_attackers == {"bulyan": 2, "krum": 4, "multi_krum": 4}.get(rule, 5)


@pytest.mark.parametrize("rule", ["fedavg", "median", "krum"])
def test_a_huge_attacker_is_mixed_away(rule):
    rows = draw(0, 9).rows * 0.1 + 1
    rows[3] = 1e6
    # For the plain mean one mixture of nine, the attacker's own, still holds a ninth of it, which is why NNM needs a rule.
    found = flat(aggregate(rule, updates_of(rows), pre="nnm", f=1).delta)
    if rule == "fedavg":
        assert np.abs(found - 1).max() < 2e4
    else:
        np.testing.assert_allclose(found, np.ones(7), atol=0.2)


def test_identical_updates_return_themselves():
    row = draw(0).rows[0]
    np.testing.assert_allclose(rows_of(mix(gathered([row] * 5, samples=[1, 2, 3, 4, 5]), f=2)), [row] * 5, rtol=1e-13)
