"""What became of a client in a round, and why, in words."""

import pytest

from cluster.report.states import cause, state_of, why

COUNTED = {
    "admitted": True,
    "reason": None,
    "weight": 1.0,
    "flagged": False,
    "round_outcome": "aggregated",
    "excluded_by": None,
    "excluded_because": None,
    "copies": 1.0,
}


@pytest.mark.parametrize(
    ("changed", "state", "in_words"),
    [
        ({}, "counted", ""),
        ({"weight": 0.5}, "counted", ""),
        ({"weight": 0.25, "flagged": True}, "weighed down", "weight 0.25, since the probe flagged it"),
        ({"weight": 0.37, "copies": 3.01}, "weighed down", "weight 0.37, since 3.0 updates of the round are the same or nearly"),
        ({"weight": 0.37, "copies": None}, "weighed down", "weight 0.37"),
        (
            {"weight": 0.0, "excluded_by": "live", "excluded_because": "0.9 is above 0.5"},
            "excluded",
            "level live: 0.9 is above 0.5",
        ),
        ({"round_outcome": "skipped"}, "not aggregated", "the round was skipped"),
        ({"admitted": False, "reason": "late: 30 s"}, "late", "late: 30 s"),
        ({"admitted": False, "reason": "norm: 9 is above 4"}, "refused", "norm: 9 is above 4"),
    ],
)
def test_state_and_words(changed, state, in_words):
    row = {**COUNTED, **changed}
    assert (state_of(row), why(row)) == (state, in_words)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"weight": 0.25, "flagged": True, "copies": 4.0}, "the probe"),
        ({"weight": 0.25, "copies": 4.0}, "copies"),
        ({"weight": 0.25}, "little weight"),
        ({"weight": 0.0, "excluded_by": "live"}, "live"),
        ({"admitted": False, "reason": "norm: 9 is above 4"}, "norm"),
    ],
)
def test_the_cause_in_a_word_or_two(changed, expected):
    assert cause({**COUNTED, **changed}) == expected
