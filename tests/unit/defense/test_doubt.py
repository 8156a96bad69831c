"""Doubt: of which clients earlier references leave open what they are, and when they settle it."""

import pytest

from defense.config import DefenseConfig
from defense.doubt import Settled, in_doubt, now_settled
from defense.level_bounds import reference_values

LIVE = DefenseConfig(level="live")


def test_clients_are_in_doubt_around_the_bound_of_live_and_all_where_it_has_none():
    config, scores = DefenseConfig(level="live"), {"c": 0.02, "b": 0.5, "a": 0.97}
    assert in_doubt(config, {}, {}, 1, scores, {}, threshold=0.6) == ["b"]
    assert in_doubt(config, {}, {}, 1, scores, {}, threshold=0.98) == ["a", "b"]
    assert in_doubt(config, {}, {}, 1, scores, {}) == ["a", "b", "c"]
    same = {"last_step_probability": (0.01, 0.02, 0.03)}
    assert in_doubt(config, reference_values(config, same, same, "round 1"), {}, 1, scores, {}) == ["a", "b", "c"]  # it abstains


def test_a_client_that_older_references_call_noise_is_in_doubt():
    config, honest = DefenseConfig(level="live+spectrum", false_positive_rate=0.1), {"a": 0.1, "b": 0.1, "c": 0.99}
    known = reference_values(config, {"flatness": (0.4, 0.5, 0.6)}, {}, "round 1")
    flatness = {"a": 0.91, "b": 0.93, "c": 0.93}  # half way to noise from 0.837: 0.919
    assert in_doubt(config, known, {}, 1, honest, flatness, threshold=0.6) == ["b"]  # c is excluded anyway
    by_hand = DefenseConfig(level="live+spectrum", spectrum={"max_flatness": 0.7})
    assert in_doubt(by_hand, known, {}, 1, honest, flatness, threshold=0.6) == []


def test_what_references_have_judged_is_in_no_doubt_until_it_goes_beyond_or_twice_as_many_rounds_are_done():
    settled = now_settled({}, 3, {"a": 0.5, "b": 0.4}, {})
    assert settled["a"] == Settled(probability=0.5, flatness=0.0, rounds_done=3)
    for rounds_done, scores, expected in (
        (3, {"a": 0.5, "b": 0.4}, []),
        (5, {"a": 0.45, "b": 0.3}, []),
        (5, {"a": 0.51, "b": 0.3}, ["a"]),
        (5, {"a": 0.5, "b": 0.4, "c": 0.4}, ["c"]),
        (6, {"a": 0.5, "b": 0.3}, ["a", "b"]),
    ):
        assert in_doubt(LIVE, {}, settled, rounds_done, scores, {}, threshold=0.6) == expected


def test_a_client_that_stays_in_doubt_is_judged_in_ever_longer_intervals():
    settled, judged = {}, []
    for rounds_done in range(25):
        if in_doubt(LIVE, {}, settled, rounds_done, {"a": 0.5}, {}, threshold=0.6):
            settled = now_settled(settled, rounds_done + 1, {"a": 0.5}, {})
            judged.append(rounds_done + 1)
    assert judged == [1, 3, 7, 15]


def test_what_was_settled_higher_stays_settled_while_it_holds():
    settled = now_settled(now_settled({}, 3, {"a": 0.5}, {"a": 0.9}), 4, {"a": 0.4}, {"a": 0.8})
    assert settled == {"a": Settled(probability=0.5, flatness=0.9, rounds_done=4)}
    late = now_settled(settled, 9, {"a": 0.4}, {})
    assert late == {"a": Settled(probability=0.4, flatness=0.0, rounds_done=9)}


def test_noise_beyond_what_is_settled_is_in_doubt_again():
    config = DefenseConfig(level="live+spectrum", false_positive_rate=0.1)
    known = reference_values(config, {"flatness": (0.4, 0.5, 0.6)}, {}, "round 1")
    settled = now_settled({}, 4, {"a": 0.1}, {"a": 0.93})
    for flatness, expected in ((0.925, []), (0.94, ["a"])):
        assert in_doubt(config, known, settled, 5, {"a": 0.1}, {"a": flatness}, threshold=0.6) == expected


def test_where_the_probe_abstains_what_it_says_raises_no_new_doubt():
    same = {"last_step_probability": (0.01, 0.02, 0.03)}
    known, settled = reference_values(LIVE, same, same, "round 1"), now_settled({}, 3, {"a": 0.2}, {})
    assert in_doubt(LIVE, known, settled, 4, {"a": 0.9}, {}) == []
    assert in_doubt(LIVE, known, settled, 6, {"a": 0.1}, {}) == ["a"]


@pytest.mark.parametrize("probability", [float("nan")])
def test_a_probability_that_is_no_number_is_in_doubt_whatever_is_settled(probability):
    settled = now_settled({}, 3, {"a": 0.5}, {})
    assert in_doubt(LIVE, {}, settled, 4, {"a": probability}, {}, threshold=0.6) == ["a"]
