"""defense/levels/client.py: the two-sided logistic of the last step's score, and its running mean."""

import json
import math
from itertools import pairwise

import pytest

from defense.evidence import Evidence, gather_evidence
from defense.levels import client

AT_5 = 0.9933071490757153  # logistic of 5, 1 / (1 + e^-5)
AT_MINUS_5 = 0.0066928509242848554  # logistic of -5


def saw(probability: float, client_id: str = "a") -> Evidence:
    return Evidence(client_id=client_id, num_samples=48, num_flagged=0, last_probability=probability)


def play(probabilities: list[float], **parameters) -> tuple[list[float], dict]:
    """The weights of client a, round by round, and the last state."""
    state, weights = {}, []
    for probability in probabilities:
        given, state = client.weigh(state, [saw(probability)], **parameters)
        weights.append(given["a"])
    return weights, state


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.0, 0.5 * AT_MINUS_5),  # 10 x (0 - 0.5) = -5
        (0.4, 0.25),  # 10 x (0.4/0.8 - 0.5) = 0, half of 1/2
        (0.8, 0.5 * AT_5),  # 10 x (1 - 0.5) = 5
        (0.9, 0.75),  # 10 x (0.1/0.2 - 0.5) = 0, 1/2 + half of 1/2
        (1.0, 0.5 + 0.5 * AT_5),  # 10 x (1 - 0.5) = 5
    ],
)
def test_suspicion_follows_the_paper(probability, expected):
    assert client.suspicion(probability) == pytest.approx(expected, abs=1e-12)


def test_suspicion_in_decimals():
    shown = [round(client.suspicion(s), 6) for s in (0.0, 0.4, 0.8, 0.9, 1.0)]
    assert shown == [0.003346, 0.25, 0.496654, 0.75, 0.996654]


@pytest.mark.parametrize("probability", [math.nan, math.inf, -0.1, 1.1])
def test_what_is_no_probability_is_suspicious(probability):
    assert client.suspicion(probability) == 1


def test_suspicion_rises_with_the_probability():
    values = [client.suspicion(i / 100) for i in range(101)]
    assert all(low < high for low, high in pairwise(values))


def test_suspicion_scales_with_another_threshold_and_steepness():
    # Threshold 0.5: s = 0.25 lies in the middle below, 0.75 in the middle above.
    assert client.suspicion(0.25, threshold=0.5) == pytest.approx(0.25)
    assert client.suspicion(0.75, threshold=0.5) == pytest.approx(0.75)
    # Steepness 2 at s = 0: 2 x -0.5 = -1, logistic 0.2689414213699951, half of it.
    assert client.suspicion(0.0, steepness=2) == pytest.approx(0.13447071068499755)


def test_the_first_weight_is_the_first_factor():
    # The prior mean 1 has count 0: (1 x 0 + 0.25) / 1.
    assert play([0.9])[0] == pytest.approx([0.25])


def test_the_weight_is_the_running_mean_of_the_factors():
    # Factors 0.75, 0.25, 0.75, and 1 - (1/2 + AT_5 / 2) = AT_MINUS_5 / 2.
    # Means 0.75; 1.0 / 2; 1.75 / 3; (1.75 + 0.0033464) / 4.
    weights, state = play([0.4, 0.9, 0.4, 1.0])
    assert weights == pytest.approx([0.75, 0.5, 1.75 / 3, (1.75 + 0.5 * AT_MINUS_5) / 4], abs=1e-12)
    assert state["a"] == {"mean": pytest.approx(weights[-1]), "rounds": 4}


def test_a_withheld_last_step_counts_as_certainly_malicious():
    evidence = gather_evidence("a", 48, {1: 0.0, 2: 0.0}, num_steps=3, batch_size=16, threshold=0.8)
    assert client.weigh({}, [evidence])[0]["a"] == pytest.approx(0.5 * AT_MINUS_5, abs=1e-12)


def test_only_the_last_step_counts():
    clean_end = gather_evidence("a", 48, {1: 1.0, 2: 1.0, 3: 0.4}, num_steps=3, batch_size=16, threshold=0.8)
    assert client.weigh({}, [clean_end])[0]["a"] == pytest.approx(0.75)


def test_trust_is_frozen_after_the_clients_own_rounds():
    # Two rounds count: 0.75, then (0.75 + 0.25) / 2; later rounds change nothing.
    weights, state = play([0.4, 0.9, 0.0, 1.0], adapt_rounds=2)
    assert weights == pytest.approx([0.75, 0.5, 0.5, 0.5])
    assert state["a"]["rounds"] == 2


def test_by_default_20_rounds_count_and_the_21st_does_not():
    # 19 factors 0.75 and one 0.25: 14.5 / 20 = 0.725.
    weights, _ = play([0.4] * 19 + [0.9, 1.0])
    assert weights[18:] == pytest.approx([0.75, 0.725, 0.725])


def test_a_newcomer_is_judged_like_everyone_else_was():
    _, state = play([0.4] * 25)
    weights, state = client.weigh(state, [saw(1.0), saw(0.9, "late")])
    assert weights == {"a": pytest.approx(0.75), "late": pytest.approx(0.25)}
    assert state["late"]["rounds"] == 1


def test_a_round_without_the_client_is_not_one_of_its_rounds():
    _, state = play([0.4])
    _, after = client.weigh(state, [saw(0.9, "b")])
    assert after["a"] == state["a"]
    assert client.weigh(after, [saw(0.9)])[0] == {"a": pytest.approx(0.5)}  # (0.75 + 0.25) / 2


def test_the_state_given_is_not_changed():
    _, state = play([0.4])
    before = json.dumps(state)
    client.weigh(state, [saw(0.9), saw(0.9, "b")])
    assert json.dumps(state) == before


def test_a_state_that_went_through_json_gives_the_same_results():
    _, state = play([0.3, 0.77, 0.95])
    again = json.loads(json.dumps(state))
    assert client.weigh(again, [saw(0.6), saw(0.1, "b")]) == client.weigh(state, [saw(0.6), saw(0.1, "b")])


def test_suspicion_of_any_steepness_stays_within_0_and_1():
    values = [client.suspicion(p, 0.8, 5000.0) for p in (0.0, 0.4, 0.8, 0.9, 1.0)]
    assert values == [0.0, 0.25, 0.5, 0.75, 1.0]
