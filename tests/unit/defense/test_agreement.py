"""defense/agreement.py: cosines to the mean of the others, by hand and against a plain computation."""

import math

import numpy as np
import pytest
import torch

from defense.agreement import agreements, compare
from defense.config import DefenseConfig
from defense.levels import compares
from defense.rules import gather
from defense.rules.rule import Update


def gathered(rows, weights=None) -> gather.Gathered:
    state = gather.Gathered()
    for i, row in enumerate(rows):
        delta = {"w": torch.tensor(row, dtype=torch.float64)}
        weight = 1.0 if weights is None else weights[i]
        state = gather.add(state, Update(client_id=f"c{i}", delta=delta, num_samples=16, weight=weight))
    return state


def test_two_alike_and_one_turned():
    assert agreements(gathered([[1, 0], [1, 0], [-1, 0]]), [1, 1, 1]) == pytest.approx([0, 0, -1])


def test_length_does_not_count():
    # To c0 the others are (0, 1) and (1, 0) of length 1: 45 degrees, however long the second is.
    assert agreements(gathered([[1, 0], [0, 1], [100, 0]]), [1, 1, 1])[0] == pytest.approx(math.cos(math.pi / 4), abs=1e-6)


def test_masses_weigh_the_others_and_not_oneself():
    # Others of c0: 3 parts (0, 1), 4 parts (1, 0): cosine 4/5. c1 has mass 3 itself, its others are (1, 0) twice.
    assert agreements(gathered([[1, 0], [0, 1], [1, 0]]), [1, 3, 4]) == pytest.approx([0.8, 0, 1 / math.sqrt(10)])


def test_who_points_nowhere_has_cosine_zero():
    assert agreements(gathered([[0, 0], [1, 0], [1, 0]]), [1, 1, 1]) == pytest.approx([0, 1, 1])
    assert agreements(gathered([[1, 0], [1, 0]]), [1, 0]) == pytest.approx([0, 1])
    assert agreements(gathered([[1, 0]]), [1]) == [0]


def test_against_numpy():
    rng = np.random.default_rng(3)
    rows, masses = rng.normal(size=(7, 40)).astype(np.float32), rng.uniform(size=7)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = []
    for i in range(7):
        others = sum(masses[j] * unit[j] for j in range(7) if j != i)
        expected.append(unit[i] @ others / np.linalg.norm(others))
    assert agreements(gathered(rows.tolist()), masses.tolist()) == pytest.approx(expected, abs=1e-6)


def test_clients_that_turn_their_updates_are_put_out_and_then_have_no_say():
    rng = np.random.default_rng(0)
    common, config, state = rng.normal(size=200), DefenseConfig(level="consensus"), {}
    for _ in range(2):
        rows = [common + rng.normal(size=200) for _ in range(7)] + [-common + rng.normal(size=200) for _ in range(3)]
        found, weights, state = compare(config, state, gathered([row.tolist() for row in rows]))
        assert [weights[f"c{i}"] for i in range(10)] == [1] * 7 + [0] * 3
    # Honest clients are now compared with honest ones only: the common part's cosine, about 6 / sqrt(6 x 7) x sqrt(1/2).
    assert min(item.cosine for item in found[:7]) > 0.55


def test_a_few_identical_updates_cannot_put_out_everybody_else():
    # Honest clients of a task each have nothing in common; three send the opposite of their mean.
    honest = np.eye(7)
    turned = [(-honest.sum(0)).tolist()] * 3
    everybody = gathered([*honest.tolist(), *turned])
    assert max(agreements(everybody, [1] * 10)) < -0.1
    _, weights, state = compare(DefenseConfig(level="consensus"), {}, everybody)
    assert set(weights.values()) == {1.0}
    assert state == {"consensus": {}}


def test_without_a_verdict_whoever_was_put_out_before_stays_out():
    known = {"consensus": {"c1": {"cosines": -0.5, "rounds": 1.0}}}
    everybody = gathered([[1, 0], [1, 0], [-1, 0], [-1, 0]])  # c0 and c1 would both be out, half of them
    _, weights, state = compare(DefenseConfig(level="consensus"), known, everybody)
    assert weights == {"c0": 1.0, "c1": 0.0, "c2": 1.0, "c3": 1.0}
    assert state == known


def test_only_consensus_compares():
    assert compares(DefenseConfig(level="live+canary+consensus"))
    assert not compares(DefenseConfig(level="live+canary"))
