"""defense/rules/foolsgold.py: clients whose histories agree too well are trusted less."""

import math

import numpy as np
import pytest
import torch

from defense.rules.foolsgold import aggregate, trust
from defense.rules.gather import Gathered, add
from defense.rules.rule import Update
from tests.unit.defense.rules.builders import draw, flat, gathered, split


def naive_trust(histories: np.ndarray, kappa: float) -> np.ndarray:
    count = len(histories)
    cosine = [[0.0] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            if i != j:
                product = np.linalg.norm(histories[i]) * np.linalg.norm(histories[j])
                cosine[i][j] = histories[i] @ histories[j] / product
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


def test_orthogonal_clients_are_trusted_fully():
    assert trust(torch.eye(3, dtype=torch.float64)).tolist() == [1, 1, 1]


def test_sybils_are_not_trusted_and_the_honest_client_is():
    # c0 and c1 are the same; c2 is at 60 degrees to both. Its cosines are pardoned by 1/2: 1/4, alpha 3/4, the largest.
    cosines = torch.tensor([[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]], dtype=torch.float64)
    assert trust(cosines).tolist() == [0, 0, 1]


def test_trust_in_between_follows_the_logit():
    # Largest cosines 0.6, 0.6, 0.2; c2's are pardoned by 1/3. alpha 0.4, 0.4, 1 - 0.2/3 = 0.9333; over the largest: 3/7.
    cosines = torch.tensor([[1, 0.6, 0.2], [0.6, 1, 0.2], [0.2, 0.2, 1]], dtype=torch.float64)
    expected = math.log((3 / 7) / (4 / 7)) + 0.5
    np.testing.assert_allclose(trust(cosines).numpy(), [expected, expected, 1], rtol=1e-12)
    np.testing.assert_allclose(trust(cosines, confidence=0.5).numpy(), [expected / 2, expected / 2, 1], rtol=1e-12)


def test_the_mean_is_weighted_by_trust_times_samples_times_weight():
    # Two sybils at (1, 0), two honest clients at (0, 1) and (0, -1): opposed to each other, orthogonal to the sybils.
    delta, _ = aggregate(gathered([[1, 0], [1, 0], [0, 1], [0, -1]], [10, 10, 10, 30], [1, 1, 1, 0.5]), {})
    np.testing.assert_allclose(flat(delta), [0, (10 - 15) / 25], atol=1e-15)


def test_clients_that_are_all_alike_move_nothing():
    delta, _ = aggregate(gathered([draw(0).rows[0]] * 4), {})
    assert flat(delta).tolist() == [0] * 7


def test_one_client_alone_is_trusted():
    assert flat(aggregate(gathered([[3, 4]]), {})[0]).tolist() == [3, 4]


def test_history_convicts_sybils_whose_updates_of_a_round_differ():
    # The sybils add noise that cancels over two rounds; the honest clients' noise does not.
    honest = [[0, 1, 0], [0, 0, 1]]
    first, memory = aggregate(gathered([[5, 4, 1], [5, -4, 1], *honest]), {})
    second, _ = aggregate(gathered([[5, -4, 1], [5, 4, 1], *honest]), memory)
    alone, _ = aggregate(gathered([[5, -4, 1], [5, 4, 1], *honest]), {})
    assert flat(second)[0] < 1e-9 < flat(alone)[0]
    assert flat(first)[0] > 1e-9


def test_histories_are_kept_by_client_id_for_those_who_come_back():
    def round_of(clients: dict[str, list[float]], memory):
        state = Gathered()
        for client_id, row in clients.items():
            state = add(state, Update(client_id=client_id, delta=split(row), num_samples=1, weight=1.0))
        return aggregate(state, memory)[1]

    memory = round_of({"x": [1, 2], "y": [3, 4]}, {})
    memory = round_of({"y": [10, 20], "z": [7, 7]}, memory)
    expected = {"x/a": 1, "x/b": 2, "y/a": 13, "y/b": 24, "z/a": 7, "z/b": 7}
    assert {key: tensor.item() for key, tensor in memory.items()} == expected
    assert {tensor.dtype for tensor in memory.values()} == {torch.float32}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kappa", [0.5, 1, 2])
def test_a_naive_implementation_agrees(seed, kappa):
    drawn, past = draw(seed, 6), draw(seed + 50, 6)
    _, memory = aggregate(past.gathered, {})
    histories = (past.rows + drawn.rows).astype(np.float32).astype(np.float64)
    masses = drawn.masses * naive_trust(histories, kappa)
    delta, _ = aggregate(drawn.gathered, memory, confidence=kappa)
    np.testing.assert_allclose(flat(delta), masses @ drawn.rows / masses.sum(), rtol=1e-9, atol=1e-11)
