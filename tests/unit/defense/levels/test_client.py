"""Level client: the two-sided logistic of the last step's score, and its running mean."""

import math
from itertools import pairwise

import pytest

from defense.levels import client
from tests.unit.defense.levels.builders import saw

AT_5 = 0.9933071490757153  # logistic of 5, 1 / (1 + e^-5)
AT_MINUS_5 = 0.0066928509242848554  # logistic of -5


def play(probabilities: list[float], **settings) -> tuple[list[float], dict]:
    """The weights of client a, round by round, and the last trust."""
    trust, weights = {}, []
    for probability in probabilities:
        given, trust = client.weigh(trust, [saw(last=probability)], **settings)
        weights.append(given["a"])
    return weights, trust


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.0, 0.5 * AT_MINUS_5),  # 10 x (0 - 0.5) = -5
        (0.4, 0.25),  # 10 x (0.4/0.8 - 0.5) = 0, half of 1/2
        (0.8, 0.5 * AT_5),  # 10 x (1 - 0.5) = 5
        (0.9, 0.75),  # 10 x (0.1/0.2 - 0.5) = 0, 1/2 + half of 1/2
        (1.0, 0.5 + 0.5 * AT_5),  # 10 x (1 - 0.5) = 5
        *((no_probability, 1.0) for no_probability in (math.nan, math.inf, -0.1, 1.1)),
    ],
)
def test_suspicion_follows_the_paper(probability, expected):
    assert client.suspicion(probability) == pytest.approx(expected, abs=1e-12)


def test_suspicion_rises_with_the_probability():
    values = [client.suspicion(i / 100) for i in range(101)]
    assert all(low < high for low, high in pairwise(values))


def test_suspicion_scales_with_another_threshold_and_steepness():
    # Threshold 0.5: s = 0.25 lies in the middle below, 0.75 in the middle above.
    assert client.suspicion(0.25, threshold=0.5) == pytest.approx(0.25)
    assert client.suspicion(0.75, threshold=0.5) == pytest.approx(0.75)
    # Steepness 2 at s = 0: 2 x -0.5 = -1, logistic 0.2689414213699951, half of it.
    assert client.suspicion(0.0, steepness=2) == pytest.approx(0.13447071068499755)
    assert [client.suspicion(p, steepness=5000.0) for p in (0.0, 0.4, 0.8, 0.9, 1.0)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_weight_is_the_running_mean_of_the_factors():
    # Factors 0.75, 0.25, 0.75, and 1 - (1/2 + AT_5 / 2) = AT_MINUS_5 / 2; the prior mean 1 has count 0.
    # Means 0.75; 1.0 / 2; 1.75 / 3; (1.75 + 0.0033464) / 4.
    weights, trust = play([0.4, 0.9, 0.4, 1.0])
    assert weights == pytest.approx([0.75, 0.5, 1.75 / 3, (1.75 + 0.5 * AT_MINUS_5) / 4], abs=1e-12)
    assert trust["a"] == {"mean": pytest.approx(weights[-1]), "rounds": 4}


def test_trust_is_frozen_after_the_clients_own_rounds():
    # Two rounds count: 0.75, then (0.75 + 0.25) / 2; later rounds change nothing.
    weights, trust = play([0.4, 0.9, 0.0, 1.0], adapt_rounds=2)
    assert weights == pytest.approx([0.75, 0.5, 0.5, 0.5])
    assert trust["a"]["rounds"] == 2


def test_by_default_20_rounds_count_and_the_21st_does_not():
    # 19 factors 0.75 and one 0.25: 14.5 / 20 = 0.725.
    weights, _ = play([0.4] * 19 + [0.9, 1.0])
    assert weights[18:] == pytest.approx([0.75, 0.725, 0.725])


def test_only_a_clients_own_rounds_count():
    _, trust = play([0.4] * 25)
    weights, trust = client.weigh(trust, [saw(last=1.0), saw(last=0.9, client_id="late")])
    assert weights == {"a": pytest.approx(0.75), "late": pytest.approx(0.25)}
    assert [trust[name]["rounds"] for name in ("a", "late")] == [20, 1]
