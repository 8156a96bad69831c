"""defense/rules/foolsgold.py: clients whose histories agree too well are trusted less."""

import math

import numpy as np
import pytest
import torch

from defense.rules.foolsgold import trust
from defense.rules.round_updates import WeightedUpdate
from tests.unit.defense.rules.builders import aggregate, draw, result, split, updates_of


def naive_trust(histories: np.ndarray, kappa: float) -> np.ndarray:
    count, lengths = len(histories), np.linalg.norm(histories, axis=1)
    cosine = histories @ histories.T / np.outer(lengths, lengths)
    np.fill_diagonal(cosine, 0)
    worst = [max(0.0, *row) for row in cosine]
    for i in range(count):
        for j in range(count):
            if worst[j] > worst[i]:
                cosine[i][j] *= worst[i] / worst[j]
    alpha = [min(1.0, max(0.0, 1 - max(row))) for row in cosine]
    result = []
    for value in alpha:
        value /= max(alpha)
        result.append(1.0 if value >= 1 else 0.0 if value <= 0 else min(1, max(0, kappa * (math.log(value / (1 - value)) + 0.5))))
    return np.array(result)


@pytest.mark.parametrize(
    ("cosines", "confidence", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1, [1, 1, 1]),
        # c0 and c1 are the same; c2 is at 60 degrees to both. Its cosines are pardoned by 1/2: 1/4, alpha 3/4, the largest.
        ([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]], 1, [0, 0, 1]),
        # Largest cosines 0.6, 0.6, 0.2; c2's are pardoned by 1/3. alpha 0.4, 0.4, 1 - 0.2/3 = 0.9333; over the largest: 3/7.
        ([[1, 0.6, 0.2], [0.6, 1, 0.2], [0.2, 0.2, 1]], 1, [math.log(3 / 4) + 0.5, math.log(3 / 4) + 0.5, 1]),
        ([[1, 0.6, 0.2], [0.6, 1, 0.2], [0.2, 0.2, 1]], 0.5, [math.log(3 / 4) / 2 + 0.25, math.log(3 / 4) / 2 + 0.25, 1]),
    ],
)
def test_trust_by_hand(cosines, confidence, expected):
    np.testing.assert_allclose(trust(torch.tensor(cosines, dtype=torch.float64), confidence).numpy(), expected, rtol=1e-12)


def test_the_mean_is_weighted_by_trust_times_samples_times_weight():
    # Two sybils at (1, 0), two honest clients at (0, 1) and (0, -1): opposed to each other, orthogonal to the sybils.
    found = result("foolsgold", [[1, 0], [1, 0], [0, 1], [0, -1]], [10, 10, 10, 30], [1, 1, 1, 0.5])
    np.testing.assert_allclose(found, [0, (10 - 15) / 25], atol=1e-15)


def test_clients_that_are_all_alike_move_nothing_and_a_client_alone_is_trusted():
    assert result("foolsgold", [draw(0).rows[0]] * 4).tolist() == [0] * 7
    assert result("foolsgold", [[3, 4]]).tolist() == [3, 4]


def test_history_convicts_sybils_whose_updates_of_a_round_differ():
    # The sybils add noise that cancels over two rounds; the honest clients' noise does not.
    honest = [[0, 1, 0], [0, 0, 1]]
    first = aggregate("foolsgold", updates_of([[5, 4, 1], [5, -4, 1], *honest]))
    second = [[5, -4, 1], [5, 4, 1], *honest]
    assert result("foolsgold", second, memory=first.memory)[0] < 1e-9 < result("foolsgold", second)[0]
    assert first.delta["a"][0, 0] > 1e-9


def test_histories_are_kept_by_client_id_for_clients_that_come_back():
    memory = {}
    for clients in ({"x": [1, 2], "y": [3, 4]}, {"y": [10, 20], "z": [7, 7]}):
        sent = [WeightedUpdate(client_id=c, delta=split(row), num_samples=1, weight=1.0) for c, row in clients.items()]
        memory = aggregate("foolsgold", sent, memory=memory).memory
    expected = {"x/a": 1, "x/b": 2, "y/a": 13, "y/b": 24, "z/a": 7, "z/b": 7}
    assert {key: tensor.item() for key, tensor in memory.items()} == expected
    assert {tensor.dtype for tensor in memory.values()} == {torch.float32}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kappa", [0.5, 1, 2])
def test_a_naive_implementation_agrees(seed, kappa):
    drawn, past = draw(seed, 6), draw(seed + 50, 6)
    memory = aggregate("foolsgold", past.updates).memory
    masses = drawn.masses * naive_trust((past.rows + drawn.rows).astype(np.float32).astype(np.float64), kappa)
    found = drawn.result("foolsgold", memory=memory, confidence=kappa)
    np.testing.assert_allclose(found, masses @ drawn.rows / masses.sum(), rtol=1e-9, atol=1e-11)
