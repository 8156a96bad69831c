"""defense/gate.py: the outcome of a round, and the lower bound on weights."""

import pytest

from defense.gate import apply_min_weight, decide

FEW = "updates were admitted, clients.min_updates=3 are needed"


@pytest.mark.parametrize(
    ("values", "min_updates", "skip_below", "outcome", "mean", "why"),
    [
        ([1, 1, 0.25, 0], 3, 0.2, "aggregated", 0.5625, "mean weight 0.562 of 4 clients"),
        ([0.5, 0, 0, 0], 3, 0.2, "skipped", 0.125, "mean weight 0.125 of 4 clients is below defense.skip_below=0.2"),
        # A mean at the threshold is aggregated, here exactly in binary and at the paper's; a hair less is skipped.
        ([0.5, 0, 0.25, 0.25], 1, 0.25, "aggregated", 0.25, "mean weight 0.250"),
        ([0.5, 0, 0.25, 0.2499], 1, 0.25, "skipped", 0.249975, "is below"),
        ([0.1, 0.3], 1, 0.2, "aggregated", 0.2, "mean weight 0.200"),
        # Too few updates are no quorum, whatever their weight; a client of weight 0 counts for the quorum and for the mean.
        ([1, 1], 3, 0.2, "no_quorum", 1, f"2 {FEW}"),
        ([0, 0], 3, 0.2, "no_quorum", 0, f"2 {FEW}"),
        ([], 3, 0.2, "no_quorum", None, f"0 {FEW}"),
        ([1, 1, 1], 3, 0.2, "aggregated", 1, "mean weight 1.000"),
        ([1, 0, 0], 3, 0.2, "aggregated", 1 / 3, "mean weight 0.333"),
        # Without a threshold a round is skipped only where no client has a weight.
        ([0, 0], 1, 0.0, "skipped", 0, "all 2 clients weigh nothing"),
        ([0, 1e-9], 1, 0.0, "aggregated", 5e-10, "mean weight 0.000"),
    ],
)
def test_a_round_by_its_weights(values, min_updates, skip_below, outcome, mean, why):
    weights = {f"client-{i}": float(value) for i, value in enumerate(values)}
    decision = decide(weights, min_updates=min_updates, skip_below=skip_below)
    assert decision.outcome == outcome
    assert decision.mean_weight == (None if mean is None else pytest.approx(mean))
    assert why in decision.why


@pytest.mark.parametrize(
    ("weight", "min_weight", "expected"), [(0.0, 0.1, 0.1), (0.05, 0.1, 0.1), (0.1, 0.1, 0.1), (0.4, 0.1, 0.4), (0.0, 0.0, 0.0)]
)
def test_min_weight_raises_only_what_lies_below_it(weight, min_weight, expected):
    assert apply_min_weight(weight, min_weight) == expected
