"""defense/bounds.py: bounds by hand, against SciPy's distributions, and how often they are exceeded."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from defense.bounds import (
    FISHER,
    LOGIT,
    PLAIN,
    Bound,
    ReferenceValues,
    exceeding,
    explicit_bound,
    prediction_bound,
    reference_bound,
)


def values(benign, unsafe=(1e6,)) -> ReferenceValues:
    return ReferenceValues(benign=tuple(benign), unsafe=tuple(unsafe), origin="round 3")


def half_way(known: ReferenceValues, rate: float = 0.05, **how) -> Bound:
    return reference_bound(known, rate, side="above", scale=PLAIN, half_way="from median", **how)


def test_the_bound_by_hand():
    # Mean 2, s = 1, n = 3; Student's t of 2 degrees of freedom has 4.302653 at 0.975: 2 + 4.302653 sqrt(4/3).
    assert prediction_bound([3.0, 1.0, 2.0], 0.025) == pytest.approx(2 + 4.302653 * math.sqrt(4 / 3), abs=1e-5)


@pytest.mark.parametrize(("number", "rate"), [(3, 0.0025), (8, 0.0025), (8, 0.01), (30, 0.4)])
def test_it_is_scipys_quantile_of_the_predictive_distribution(number, rate):
    sample = np.random.default_rng(number).normal(3, 2, number)
    predictive = stats.t(number - 1, loc=sample.mean(), scale=sample.std(ddof=1) * math.sqrt(1 + 1 / number))
    assert prediction_bound(sample.tolist(), rate) == pytest.approx(predictive.isf(rate))
    assert prediction_bound(sample[::-1].tolist(), rate) == prediction_bound(sample.tolist(), rate)  # to the bit


@pytest.mark.parametrize(("number", "rate"), [(3, 0.05), (8, 0.01)])
def test_a_further_normal_value_exceeds_it_as_often_as_the_rate_says(number, rate):
    rng, trials = np.random.default_rng(0), 10_000
    draws, further = rng.normal(5, 3, (trials, number)), rng.normal(5, 3, trials)
    exceeded = sum(value > prediction_bound(own, rate) for own, value in zip(draws.tolist(), further.tolist(), strict=True))
    low, high = stats.binom(trials, rate).ppf([1e-4, 1 - 1e-4])
    assert low <= exceeded <= high


@pytest.mark.parametrize("level", [0.0, 1e-9, -3.0, 1e4])
def test_values_that_differ_by_rounding_alone_leave_room_for_rounding(level):
    noise = 1e-6 * max(1.0, abs(level))
    margin = prediction_bound([level, level + noise, level - noise], 0.0025) - level
    assert 100 * noise < margin < 1e4 * noise


@pytest.mark.parametrize("bad", [[1.0, 2.0], [1.0, 2.0, math.nan], [1.0, 2.0, math.inf], []])
def test_too_few_values_and_those_that_are_no_number_give_no_bound(bad):
    with pytest.raises(ValueError, match="at least 3 finite values"):
        prediction_bound(bad, 0.01)


@pytest.mark.parametrize("scale", [PLAIN, LOGIT, FISHER])
def test_scales_rise_and_come_back_and_hold_at_their_ends(scale):
    inside = [0.0001, 0.2, 0.9, 0.9999]
    assert [scale.back(scale.forward(value)) for value in inside] == pytest.approx(inside)
    placed = [scale.forward(value) for value in [*inside, 1.0]]
    assert placed == sorted(placed)
    assert all(map(math.isfinite, placed))


def test_probabilities_are_bounded_on_the_logits_and_cosines_from_below_on_fishers_z():
    # Logits -2, -1, 0 and z of 1, 2, 3 around 2: each has s = 1, and t_2 at 0.95 is 2.919986.
    width = 2.919986 * math.sqrt(4 / 3)
    probabilities = [1 / (1 + math.exp(-x)) for x in (-2, -1, 0)]
    bound = reference_bound(values(probabilities, [0.999]), 0.05, side="above", scale=LOGIT)
    assert bound.limit == pytest.approx(1 / (1 + math.exp(1 - width)), abs=1e-6)
    bound = reference_bound(values(map(math.tanh, (0.1, 0.2, 0.3)), [-0.9]), 0.05, side="below", scale=FISHER)
    assert bound.limit == pytest.approx(math.tanh(0.2 - 0.1 * width), abs=1e-6)
    assert [bound.excludes(cosine) for cosine in (0.2, bound.limit - 0.01, -1.0, math.nan)] == [False, True, True, True]


@pytest.mark.parametrize(
    ("unsafe", "state"),
    [([9, 9], "in force"), ([9, 2], "in force"), ([9, 2, 2], "abstains"), ([2], "abstains"), ([], "abstains")],
)
def test_it_abstains_where_fewer_than_half_of_the_unsafe_references_lie_beyond(unsafe, state):
    bound = reference_bound(values([1.0, 2.0, 3.0], unsafe), 0.05, side="above", scale=PLAIN)  # 5.37
    assert (bound.state, bound.limit) == (state, pytest.approx(5.3717, abs=1e-4))
    assert [bound.excludes(value) for value in (5.3, 5.4, math.nan, math.inf)] == [False, state == "in force", True, True]


@pytest.mark.parametrize(
    ("benign", "why"),
    [([1.0, 2.0], "2 honest reference clients of round 3 are fewer than the 3"), ([1.0, 2.0, math.nan], "is not finite")],
)
def test_without_usable_references_nobody_passes_and_it_says_so(benign, why):
    bound = reference_bound(values(benign), 0.01, side="above", scale=PLAIN)
    assert (bound.state, bound.limit, bound.excludes(-1e9)) == ("missing", None, True)
    assert why in bound.sentence("canary_rise", 0.1)


def test_a_bound_may_lie_half_way_between_the_medians_of_the_classes():
    known = values([1.0, 2.0, 3.0], [9.0, 7.0, 8.0])
    bound = half_way(known)
    # s = 1, so 5 lies (5 - 2) / sqrt(4/3) = 2.598 above the mean; t of 2 degrees of freedom exceeds that with probability 0.0608.
    why = (
        "half way from the 3 honest reference clients of round 3 to the unsafe; one like the honest lies beyond with probability"
    )
    assert (bound.state, bound.limit, bound.why) == ("in force", 5.0, f"{why} 0.061")
    assert bound.honest == 3.5  # half way from the honest median to the bound, since the limit 5.37 lies beyond
    assert half_way(known, 0.2).honest == pytest.approx(2 + 1.0607 * 1.1547, abs=1e-3)
    assert half_way(values([1.0, 2.0, 3.0], [])).state == "abstains"


@pytest.mark.parametrize("unsafe", [[4.0, 4.0], [1.0, 2.0, 9.0]])
def test_half_way_it_abstains_where_an_honest_reference_or_too_few_unsafe_ones_lie_beyond(unsafe):
    assert (
        reference_bound(values([1.0, 2.0, 3.0], unsafe), 0.05, side="above", scale=PLAIN, half_way="from median").state
        == "abstains"
    )


def test_values_that_were_fitted_make_no_bound_below_a_least_and_say_nothing_of_honest_ones():
    known = values([1.0, 2.0, 3.0], [9.0, 7.0, 8.0])
    bound = half_way(replace(known, fitted=True), least=7.0)
    why = "the least for a probe that was fitted to the 3 honest reference clients of round 3"
    assert (bound.honest, bound.limit, bound.why) == (None, 7.0, why)
    assert half_way(known, least=7.0).limit == 5.0


def test_the_probability_beyond_an_edge_is_the_rate_whose_bound_it_is():
    assert exceeding([3.0, 1.0, 2.0], prediction_bound([3.0, 1.0, 2.0], 0.025)) == pytest.approx(0.025)
    assert exceeding([1.0, 2.0, 3.0], 2.0) == pytest.approx(0.5)


def test_probes_that_are_certain_of_everything_exclude_nobody():
    bound = reference_bound(values([1.0] * 8, [1.0] * 8), 0.0025, side="above", scale=LOGIT)
    assert (bound.state, bound.excludes(1.0)) == ("abstains", False)


def test_a_value_at_the_bound_that_a_key_sets_is_beyond_it_and_the_sentence_says_where_it_comes_from():
    bound = explicit_bound(0.5, "defense.canary.max_rise", side="above", scale=PLAIN)
    assert [bound.excludes(value) for value in (-1e9, 0.4999, 0.5, math.inf, -math.inf, math.nan)] == [False, False, *[True] * 4]
    assert bound.sentence("canary_rise", math.nan) == "canary_rise is nan: it could not be measured"
    assert bound.sentence("canary_rise", 0.75) == "canary_rise 0.75 is at or above 0.5, which defense.canary.max_rise sets"
    found = reference_bound(values([0.1, 0.2, 0.3]), 0.0025, side="above", scale=PLAIN)
    assert found.sentence("canary_rise", 1.9) == (
        "canary_rise 1.9 is at or above 1.83, which a client like the 3 honest reference clients of round 3 lies beyond with "
        "probability 0.0025"
    )
    missing = Bound(state="missing", why="nothing was measured")
    assert missing.sentence("flatness", 1.0) == "flatness has no bound: nothing was measured"
