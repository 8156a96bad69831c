"""Intervals over seeds and prompts, worked out by hand, against scipy, and by how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from cluster.comparison.intervals import difference_interval, share_interval


def outcomes(*seeds: str) -> np.ndarray:
    """`outcomes("110", "100")`: two seeds, three prompts."""
    return np.array([[int(digit) for digit in seed] for seed in seeds], dtype=np.uint8)


def wilson(hits: int, count: int):
    interval = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return pytest.approx((interval.low, interval.high), abs=1e-12)


def test_seeds_that_agree_on_everything_are_as_many_prompts_as_one():
    assert share_interval([outcomes("1" * 100)]) == wilson(100, 100)
    assert share_interval([outcomes(*["1" * 100] * 3)]) == wilson(100, 100)
    assert share_interval([outcomes(*["0" * 100] * 3)]) == wilson(0, 100)


def test_one_seed_has_the_interval_of_its_prompts():
    low, high = share_interval([outcomes("1" * 700 + "0" * 300)])
    plain = stats.binomtest(700, 1000).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(plain.low, abs=2e-4)
    assert high == pytest.approx(plain.high, abs=2e-4)
    assert low <= plain.low < plain.high <= high  # Student's t is wider than the normal


def test_two_seeds_that_disagree_on_everything_say_nothing():
    low, high = share_interval([outcomes("1111", "0000")])
    # Variance (1/2) / 2 = 1/4 with one degree of freedom: (1.96 / 12.71)^2 = 0.0238 prompts.
    pull = 1.959964**2 / 0.0237946
    reach = np.sqrt(0.25 * pull + pull**2 / 4) / (1 + pull)
    assert (low, high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-4)
    assert low < 0.01
    assert high > 0.99


def test_families_weigh_alike_whatever_their_number_of_prompts():
    few, many = outcomes("10"), outcomes("1" * 30 + "0" * 10)
    # Means 1/2 and 3/4; variances of the means (1/2) / 2 and (40/39 x 3/16) / 40, a quarter of whose sum counts.
    variances = np.array([0.25, 0.1875 / 39])
    effective = 0.625 * 0.375 / (variances.sum() / 4) * (1.959964 / stats.t.ppf(0.975, 42 - 2)) ** 2
    pull = 1.959964**2 / effective
    centre, reach = (0.625 + pull / 2) / (1 + pull), np.sqrt(0.625 * 0.375 * pull + pull**2 / 4) / (1 + pull)
    assert share_interval([few, many]) == pytest.approx((centre - reach, centre + reach), abs=1e-5)


def test_a_difference_that_nothing_shows_is_uncertain_by_a_prompt():
    same = outcomes("1011")
    # Half a prompt in each direction: variance 1/16, three degrees of freedom.
    assert difference_interval([same], [same]) == pytest.approx((-3.182446 / 4, 3.182446 / 4), abs=1e-5)


def test_a_difference_is_paired_by_prompt():
    # One of four prompts gained: variance of the mean 1/16, and 1/16 for what was not seen.
    reach = 3.182446 * np.sqrt(1 / 8)
    assert difference_interval([outcomes("1011")], [outcomes("0011")]) == pytest.approx((0.25 - reach, 0.25 + reach), abs=1e-5)


def test_a_difference_of_one_seed_only_widens_its_interval_over_seeds():
    steady = difference_interval([outcomes("1" * 50, "1" * 50, "1" * 50)], [outcomes(*["0" * 5 + "1" * 45] * 3)])
    single = difference_interval([outcomes(*["1" * 50] * 3)], [outcomes("0" * 15 + "1" * 35, "1" * 50, "1" * 50)])
    assert np.mean(steady) == pytest.approx(np.mean(single)) == pytest.approx(0.1)
    assert steady[0] > 0 > single[0]


def test_other_prompts_or_seeds_cannot_be_paired():
    with pytest.raises(ValueError, match="only the same prompts at the same seeds"):
        difference_interval([outcomes("101")], [outcomes("1011")])
    with pytest.raises(ValueError, match="only the same prompts at the same seeds"):
        difference_interval([outcomes("101")], [outcomes("101", "111")])


@pytest.mark.parametrize(("num_seeds", "of_seeds"), [(1, 0.0), (3, 0.0), (3, 0.03), (10, 0.03)])
def test_intervals_cover_the_truth_19_times_in_20(num_seeds, of_seeds):
    """Prompts of which some are always answered, some by chance; adapters that differ by their seed."""
    rng, covered = np.random.default_rng(num_seeds), []
    for _ in range(500):
        prompts = rng.choice([0.4, 1.0], size=200, p=[0.2, 0.8])  # mean 0.88
        adapters = rng.normal(0, of_seeds, num_seeds)
        shares = np.clip(prompts[None, :] + adapters[:, None] * (prompts[None, :] < 1), 0, 1)
        low, high = share_interval([(rng.random(shares.shape) < shares).astype(np.uint8)])
        covered.append(low <= 0.88 <= high)
    assert np.mean(covered) > 0.93
