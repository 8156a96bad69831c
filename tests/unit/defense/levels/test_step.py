"""defense/levels/step.py: Bayesian trust with decay, against numbers worked out by hand."""

import json

import pytest

from defense.evidence import Evidence, gather_evidence
from defense.levels import step


def saw(num_flagged: int, client_id: str = "a", num_samples: int = 48) -> Evidence:
    return Evidence(client_id=client_id, num_samples=num_samples, num_flagged=num_flagged, last_probability=0.5)


def play(flagged: list[int], state=None, **parameters) -> tuple[list[float], dict]:
    """The weights of client a, round by round, and the last state."""
    state, weights = state or {}, []
    for num_flagged in flagged:
        given, state = step.weigh(state, [saw(num_flagged)], **parameters)
        weights.append(given["a"])
    return weights, state


def test_three_rounds_follow_the_paper():
    # alpha, beta start at 1, 1; decay 0.95; n = 48.
    # h = 16: alpha = 0.95 + 32 = 32.95, beta = 0.95 + 16 = 16.95; sum 49.9.
    # h = 0: alpha = 31.3025 + 48 = 79.3025, beta = 16.1025; sum 95.405.
    # h = 48: alpha = 75.337375, beta = 15.297375 + 48 = 63.297375; sum 138.63475.
    weights, state = play([16, 0, 48])
    assert weights == pytest.approx([32.95 / 49.9, 79.3025 / 95.405, 75.337375 / 138.63475])
    assert weights == pytest.approx([0.660321, 0.831220, 0.543424], abs=1e-6)
    assert state["a"] == {"alpha": pytest.approx(75.337375), "beta": pytest.approx(63.297375), "rounds": 3}


def test_the_first_round_weighs_a_clean_client_high_and_a_flagged_one_low():
    # Clean: (0.95 + 48) / (0.95 + 48 + 0.95) = 48.95 / 49.9; flagged: 0.95 / 49.9.
    assert play([0])[0] == pytest.approx([48.95 / 49.9])
    assert play([48])[0] == pytest.approx([0.95 / 49.9])


def test_many_rounds_are_a_geometric_series():
    # Ten rounds with h = 12 of 48: alpha = 0.95^10 + 36 S, beta = 0.95^10 + 12 S, S = (1 - 0.95^10) / 0.05.
    rest = 0.5987369392383787  # 0.95^10
    series = (1 - rest) / 0.05
    expected = (rest + 36 * series) / (2 * rest + 48 * series)
    assert play([12] * 10)[0][-1] == pytest.approx(expected)


def test_old_rounds_fade():
    # Decay 0.5: h = 48: alpha 0.5, beta 48.5; h = 0: alpha 48.25, beta 24.25; h = 0: alpha 72.125, beta 12.125.
    assert play([48, 0, 0], decay=0.5)[0] == pytest.approx([0.5 / 49, 48.25 / 72.5, 72.125 / 84.25])


def test_more_samples_weigh_more():
    # 16 samples, all clean, after 48 flagged ones: alpha = 0.95 x 0.95 + 16 = 16.9025, beta = 0.95 x 48.95 = 46.5025.
    _, state = play([48])
    weights, _ = step.weigh(state, [saw(0, num_samples=16)])
    assert weights["a"] == pytest.approx(16.9025 / 63.405)


def test_a_withheld_step_costs_trust_and_is_capped_at_the_samples_trained():
    # Two of three steps withheld are 32 flagged samples, of a client that trained 20: h = n = 20.
    evidence = gather_evidence("a", 20, {1: 0.0}, num_steps=3, batch_size=16, threshold=0.8)
    weights, state = step.weigh({}, [evidence])
    # alpha = 0.95 + 0, beta = 0.95 + 20 = 20.95.
    assert weights["a"] == pytest.approx(0.95 / 21.9)
    assert state["a"]["alpha"] == pytest.approx(0.95)


def test_trust_is_frozen_after_the_clients_own_rounds():
    # Two rounds count: 48.95 / 49.9, then alpha = 46.5025 + 48 = 94.5025, beta = 0.9025. Later rounds change nothing.
    weights, state = play([0, 0, 48, 48], adapt_rounds=2)
    frozen = 94.5025 / 95.405
    assert weights == pytest.approx([48.95 / 49.9, frozen, frozen, frozen])
    assert state["a"]["rounds"] == 2


def test_by_default_20_rounds_count_and_the_21st_does_not():
    weights, state = play([0] * 20 + [48])
    assert weights[20] == weights[19]
    # A client flagged in its 20th round is still judged by it.
    judged, _ = play([0] * 19 + [48])
    assert judged[19] < judged[18]
    assert state["a"]["rounds"] == 20


def test_a_newcomer_is_judged_like_everyone_else_was():
    _, state = play([0] * 25)
    weights, state = step.weigh(state, [saw(0), saw(48, "late")])
    assert weights["late"] == pytest.approx(0.95 / 49.9)
    assert state["late"]["rounds"] == 1


def test_a_round_without_the_client_is_not_one_of_its_rounds():
    _, state = play([16])
    _, after = step.weigh(state, [saw(48, "b")])
    assert after["a"] == state["a"]
    weights, _ = step.weigh(after, [saw(0)])
    assert weights["a"] == pytest.approx(79.3025 / 95.405)  # the second round of the first test


def test_weights_are_given_for_the_clients_of_the_round_only():
    _, state = play([0])
    weights, _ = step.weigh(state, [saw(0, "b")])
    assert set(weights) == {"b"}


def test_the_state_given_is_not_changed():
    _, state = play([16])
    before = json.dumps(state)
    step.weigh(state, [saw(48), saw(48, "b")])
    assert json.dumps(state) == before


def test_a_state_that_went_through_json_gives_the_same_results():
    _, state = play([16, 7, 0])
    again = json.loads(json.dumps(state))
    assert step.weigh(again, [saw(5), saw(3, "b")]) == step.weigh(state, [saw(5), saw(3, "b")])
