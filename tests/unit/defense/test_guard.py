"""defense/guard.py: sums by hand, in numbers that are exact in binary. L_0 is 1, the slack 1/4, the budget 1."""

import math

import numpy as np
import pytest

from defense.guard import GuardConfig, GuardState, begin, judge

SLACK, BUDGET = 0.25, 1.0


def play(losses, state: GuardState | None = None):
    """Sums that decided, rounds that were rolled back, and the state at the end; adapter and version are the round's number."""
    state, sums, back = state or begin(1.0, b"0"), [], []
    for version, loss in enumerate(losses, start=1):
        judgement, state = judge(state, loss, str(version).encode(), version, slack=SLACK, budget=BUDGET)
        sums.append(judgement.total)
        back += [version] if judgement.rolls_back else []
    return sums, back, state


def test_a_slow_drift_spends_the_budget_in_the_fourth_round():
    # Rises 1/4, 1/2, 3/4, 1: above the slack by 0, 1/4, 1/2, 3/4.
    sums, back, state = play([1.25, 1.5, 1.75, 2.0])
    assert sums == [0.0, 0.25, 0.75, 1.5]
    assert back == [4]
    assert state == GuardState(reference_loss=1.0, certified=b"1", certified_version=1, total=0.0)


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


def test_a_ratchet_below_the_canarys_threshold_does_not_last_with_the_default_settings():
    state, settings, loss = begin(0.113, b"0"), GuardConfig(), 0.113
    for version in (1, 2, 3, 4):  # a rise of a hundredth a round, a tenth of what level canary allows
        loss += 0.01
        judgement, state = judge(state, loss, b"x", version, slack=settings.slack, budget=settings.budget)
        if judgement.rolls_back:
            break
    assert version == 3  # 0 + 0.01 + 0.02
    assert judgement.total == pytest.approx(0.03)


def test_no_adapter_in_force_is_above_reference_slack_and_budget():
    rng, state, in_force, num_back = np.random.default_rng(0), begin(1.0, b""), 1.0, 0
    for version in range(1, 2001):
        loss = in_force + float(rng.integers(-8, 12)) / 16
        before = state
        judgement, state = judge(before, loss, str(loss).encode(), version, slack=SLACK, budget=BUDGET)
        in_force = float(state.certified or b"1") if judgement.rolls_back else loss
        num_back += judgement.rolls_back
        assert in_force <= 1.0 + SLACK + BUDGET
        assert float(state.certified or b"1") <= 1.0 + SLACK
    assert 100 < num_back < 1900


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_rolled_back(loss):
    judgement, state = judge(begin(1.0, b"0"), loss, b"1", 1, slack=SLACK, budget=BUDGET)
    assert judgement.rolls_back
    assert judgement.total == math.inf
    assert (state.certified, state.total) == (b"0", 0.0)
    with pytest.raises(ValueError, match=rf"initial adapter is {loss}.*defense\.guard\.enabled=false"):
        begin(loss, b"0")


def test_a_state_is_not_changed_in_place_and_the_same_is_judged_the_same():
    state = play([1.5])[2]
    assert judge(state, 9.0, b"2", 2, slack=SLACK, budget=BUDGET) == judge(state, 9.0, b"2", 2, slack=SLACK, budget=BUDGET)
    assert state.total == 0.25
