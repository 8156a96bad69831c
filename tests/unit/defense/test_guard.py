"""defense/guard.py: sums by hand, in numbers that are exact in binary. L_0 is 1, the slack 1/4, the budget 1."""

import math
from dataclasses import replace

import numpy as np
import pytest

from defense.guard import GuardConfig, GuardState, judge

SLACK, BUDGET = 0.25, 1.0
CONFIG = GuardConfig(slack=SLACK, budget=BUDGET)
BEGUN = GuardState(error=0.5, certified=b"0")


def play(losses, state: GuardState | None = None):
    """Sums that decided, rounds that were rolled back, and the state at the end; adapter and version are the round's number."""
    state, sums, back = state or BEGUN, [], []
    for version, loss in enumerate(losses, start=1):
        judgement, state = judge(state, loss - 1, str(version).encode(), version, CONFIG)
        sums.append(judgement.total)
        back += [version] if judgement.rolls_back else []
    return sums, back, state


def test_a_slow_drift_spends_the_budget_in_the_fourth_round():
    # Rises 1/4, 1/2, 3/4, 1: above the slack by 0, 1/4, 1/2, 3/4.
    sums, back, state = play([1.25, 1.5, 1.75, 2.0])
    assert sums == [0.0, 0.25, 0.75, 1.5]
    assert back == [4]
    assert state == GuardState(error=0.5, certified=b"1", certified_version=1, total=0.0)


def test_a_rise_that_stays_does_not_count_as_a_new_start():
    # An update that loses 1/2 once and holds it: 1/4 a round, above 1 in the fifth.
    sums, back, _ = play([1.5] * 5)
    assert sums == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert back == [5]


def test_a_big_jump_spends_it_at_once_and_the_sum_begins_again():
    sums, back, state = play([2.5, 1.5])
    assert (sums, back) == ([1.25, 0.25], [1])
    assert (state.certified, state.total) == (b"0", 0.25)


def test_a_sum_exactly_at_the_budget_is_not_above_it():
    assert play([2.25])[:2] == ([1.0], [])


def test_noise_within_the_slack_never_adds_up():
    sums, back, state = play([1.25, 0.75, 1.25, 1.125] * 250)
    assert (set(sums), back) == ({0.0}, [])
    assert state.certified == b"1000"


def test_what_recovers_is_certified_again_and_what_has_not_is_not():
    sums, back, state = play([1.5, 1.75, 0.75])
    assert (sums, back) == ([0.25, 0.75, 0.25], [])
    assert state.certified == b"0"
    assert play([1.25], state)[2].certified == b"0"  # 1/4 is still left
    assert play([1.0], state)[2].certified == b"1"


def test_the_reference_does_not_follow_a_loss_that_falls():
    # The lowest loss as reference would sum up 1/2 a round here, and roll back an adapter as safe as the first.
    assert play([0.25, 0.5, 1.0, 1.0, 1.25, 1.0])[:2] == ([0.0] * 6, [])


def test_without_settings_slack_and_budget_are_the_error_of_the_reference():
    state, sums = replace(BEGUN, error=0.25), []
    for version in (1, 2, 3):  # a ratchet of an eighth a round
        judgement, state = judge(state, version / 8, b"x", version, GuardConfig())
        sums.append(judgement.total)
    assert (sums, judgement.budget, judgement.rolls_back) == ([0.0, 0.0, 0.125], 0.25, False)
    judgement, state = judge(state, 0.5, b"x", 4, GuardConfig())
    assert (judgement.total, judgement.rolls_back) == (0.375, True)
    assert judge(BEGUN, 0.5, b"x", 1, GuardConfig(slack=0.125))[0].rolls_back  # 3/8 is above the budget, which is as the slack
    assert not judge(BEGUN, 1.5, b"x", 1, GuardConfig(budget=1.0))[0].rolls_back  # 3/2 - 1/2


def test_no_adapter_in_force_is_above_reference_slack_and_budget():
    rng, state, in_force, num_back = np.random.default_rng(0), replace(BEGUN, certified=b""), 1.0, 0
    for version in range(1, 2001):
        loss = in_force + float(rng.integers(-8, 12)) / 16
        before = state
        judgement, state = judge(before, loss - 1, str(loss).encode(), version, CONFIG)
        in_force = float(state.certified or b"1") if judgement.rolls_back else loss
        num_back += judgement.rolls_back
        assert in_force <= 1.0 + SLACK + BUDGET
        assert float(state.certified or b"1") <= 1.0 + SLACK
    assert 100 < num_back < 1900


@pytest.mark.parametrize("rise", [math.nan, math.inf, -math.inf])
def test_a_rise_that_is_no_number_is_rolled_back(rise):
    judgement, state = judge(BEGUN, rise, b"1", 1, CONFIG)
    assert judgement.rolls_back
    assert judgement.total == math.inf
    assert (state.certified, state.total) == (b"0", 0.0)


def test_a_state_is_not_changed_in_place_and_the_same_is_judged_the_same():
    state = play([1.5])[2]
    assert judge(state, 8.0, b"2", 2, CONFIG) == judge(state, 8.0, b"2", 2, CONFIG)
    assert state.total == 0.25


def test_the_budget_is_what_makes_a_refusal_three_times_less_likely_unless_the_slack_is_more():
    state = GuardState(error=0.01, serious=0.1, certified=b"0")
    for serious, rise, budget, rolls_back in ((0.1, 0.1, 0.1, False), (0.1, 0.12, 0.1, True), (0.001, 0.015, 0.01, False)):
        judged, _ = judge(replace(state, serious=serious), rise, b"1", 1, GuardConfig())
        assert (judged.budget, judged.rolls_back) == (budget, rolls_back)
