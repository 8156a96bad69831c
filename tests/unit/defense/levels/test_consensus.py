"""defense/levels/consensus.py: who pulls against the others, against numbers worked out by hand."""

import pytest

from defense.evidence import Agreement
from defense.levels import consensus


def play(cosines: list[float], state=None, **parameters) -> tuple[list[float], dict]:
    """The weights of client a, round by round, and the last state."""
    state, weights = state or {}, []
    for cosine in cosines:
        given, state = consensus.weigh(state, [Agreement(client_id="a", cosine=cosine)], **parameters)
        weights.append(given["a"])
    return weights, state


def test_old_rounds_fade():
    # -0.4; (0.5 x -0.4 + 0.3) / 1.5 = 0.0667; (0.5 x 0.1 - 0.9) / 1.75 = -0.486.
    weights, state = play([-0.4, 0.3, -0.9], decay=0.5)
    assert weights == [0, 1, 0]
    assert state["a"] == {"cosines": pytest.approx(-0.85), "rounds": pytest.approx(1.75)}


def test_the_bound_itself_still_counts():
    assert play([-0.125], min_cosine=-0.125)[0] == [1]
    assert play([-0.1251], min_cosine=-0.125)[0] == [0]


def test_one_bad_round_of_many_is_noise():
    assert play([0.3] * 6 + [-0.3])[0] == [1] * 7


def test_nan_weighs_nothing():
    assert play([float("nan")])[0] == [0]


def test_the_state_is_not_changed_in_place():
    _, before = play([0.2])
    kept = {"a": dict(before["a"])}
    consensus.weigh(before, [Agreement(client_id="a", cosine=-1)])
    assert before == kept


def test_outcasts_are_known_clients_only():
    _, state = play([-0.5])
    assert consensus.is_outcast(state, "a", -0.1)
    assert not consensus.is_outcast(state, "b", -0.1)
