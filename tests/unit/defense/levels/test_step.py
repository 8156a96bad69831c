"""Level step: Bayesian trust with decay, against numbers worked out by hand."""

import pytest

from defense.levels import step
from tests.unit.defense.levels.builders import saw


def play(flagged: list[int], **settings) -> tuple[list[float], dict]:
    """The weights of client a, round by round, and the last trust."""
    trust, weights = {}, []
    for num_flagged in flagged:
        given, trust = step.weigh(trust, [saw(num_flagged)], **settings)
        weights.append(given["a"])
    return weights, trust


def test_three_rounds_follow_the_paper():
    # alpha, beta start at 1, 1; decay 0.95; n = 48.
    # h = 16: alpha = 0.95 + 32 = 32.95, beta = 0.95 + 16 = 16.95; sum 49.9.
    # h = 0: alpha = 31.3025 + 48 = 79.3025, beta = 16.1025; sum 95.405.
    # h = 48: alpha = 75.337375, beta = 15.297375 + 48 = 63.297375; sum 138.63475.
    weights, trust = play([16, 0, 48])
    assert weights == pytest.approx([32.95 / 49.9, 79.3025 / 95.405, 75.337375 / 138.63475])
    assert trust["a"] == {"alpha": pytest.approx(75.337375), "beta": pytest.approx(63.297375), "rounds": 3}


def test_many_rounds_are_a_geometric_series():
    # Ten rounds with h = 12 of 48: alpha = 0.95^10 + 36 S, beta = 0.95^10 + 12 S, S = (1 - 0.95^10) / 0.05.
    rest = 0.5987369392383787  # 0.95^10
    series = (1 - rest) / 0.05
    assert play([12] * 10)[0][-1] == pytest.approx((rest + 36 * series) / (2 * rest + 48 * series))


def test_old_rounds_fade():
    # Decay 0.5: h = 48: alpha 0.5, beta 48.5; h = 0: alpha 48.25, beta 24.25; h = 0: alpha 72.125, beta 12.125.
    assert play([48, 0, 0], decay=0.5)[0] == pytest.approx([0.5 / 49, 48.25 / 72.5, 72.125 / 84.25])


def test_more_samples_weigh_more():
    # 16 samples, all clean, after 48 flagged ones: alpha = 0.95 x 0.95 + 16 = 16.9025, beta = 0.95 x 48.95 = 46.5025.
    _, trust = play([48])
    weights, _ = step.weigh(trust, [saw(0, samples=16)])
    assert weights["a"] == pytest.approx(16.9025 / 63.405)


def test_trust_is_frozen_after_the_clients_own_rounds():
    # Two rounds count: 48.95 / 49.9, then alpha = 46.5025 + 48 = 94.5025, beta = 0.9025. Later rounds change nothing.
    weights, trust = play([0, 0, 48, 48], adapt_rounds=2)
    assert weights == pytest.approx([48.95 / 49.9, *[94.5025 / 95.405] * 3])
    assert trust["a"]["rounds"] == 2


def test_by_default_20_rounds_count_and_the_21st_does_not():
    weights, _ = play([0] * 19 + [48, 48])
    assert weights[20] == weights[19] < weights[18]


def test_only_a_clients_own_rounds_count():
    _, trust = play([0] * 25)
    weights, trust = step.weigh(trust, [saw(48, client_id="late")])
    assert weights == {"late": pytest.approx(0.95 / 49.9)}
    assert [trust[name]["rounds"] for name in ("a", "late")] == [20, 1]
