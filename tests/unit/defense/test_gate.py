"""defense/gate.py: what becomes of a round, and the lower bound on weights."""

import pytest

from defense.gate import decide, lift


def weights(*values: float) -> dict[str, float]:
    return {f"client-{i}": value for i, value in enumerate(values)}


def test_a_round_of_trusted_clients_is_aggregated():
    # (1 + 1 + 0.25 + 0) / 4 = 0.5625.
    decision = decide(weights(1.0, 1.0, 0.25, 0.0), min_updates=3, skip_below=0.2)
    assert decision.outcome == "aggregated"
    assert decision.mean_weight == 0.5625
    assert decision.why == "mean weight 0.562 of 4 clients"


def test_a_round_of_distrusted_clients_is_skipped():
    # (0.5 + 0 + 0 + 0) / 4 = 0.125.
    decision = decide(weights(0.5, 0.0, 0.0, 0.0), min_updates=3, skip_below=0.2)
    assert decision.outcome == "skipped"
    assert decision.mean_weight == 0.125
    assert "mean weight 0.125 of 4 clients is below defense.skip_below=0.2" in decision.why


def test_a_mean_exactly_at_the_threshold_is_aggregated():
    # (0.5 + 0 + 0.25 + 0.25) / 4 = 0.25, exact in binary; a hair less is skipped.
    assert decide(weights(0.5, 0.0, 0.25, 0.25), min_updates=1, skip_below=0.25).outcome == "aggregated"
    assert decide(weights(0.5, 0.0, 0.25, 0.2499), min_updates=1, skip_below=0.25).outcome == "skipped"


def test_a_mean_at_the_papers_threshold_is_aggregated():
    # (0.1 + 0.3) / 2 = 0.2.
    assert decide(weights(0.1, 0.3), min_updates=1, skip_below=0.2).outcome == "aggregated"


def test_too_few_updates_are_no_quorum_whatever_their_weight():
    for values in [(1.0, 1.0), (0.0, 0.0)]:
        decision = decide(weights(*values), min_updates=3, skip_below=0.2)
        assert decision.outcome == "no_quorum"
        assert decision.mean_weight == values[0]
        assert decision.why == "2 updates were admitted, clients.min_updates=3 are needed"


def test_just_enough_updates_are_a_quorum():
    assert decide(weights(1.0, 1.0, 1.0), min_updates=3, skip_below=0.2).outcome == "aggregated"


def test_a_round_without_any_update_is_no_quorum_and_has_no_mean():
    decision = decide({}, min_updates=1, skip_below=0.2)
    assert decision.outcome == "no_quorum"
    assert decision.mean_weight is None


def test_a_round_in_which_nobody_counts_is_skipped_even_without_a_threshold():
    assert decide(weights(0.0, 0.0), min_updates=1, skip_below=0.0).outcome == "skipped"
    assert decide(weights(0.0, 1e-9), min_updates=1, skip_below=0.0).outcome == "aggregated"


def test_a_client_of_weight_0_counts_for_the_quorum_and_for_the_mean():
    # Mean (1 + 0 + 0) / 3 = 1/3.
    decision = decide(weights(1.0, 0.0, 0.0), min_updates=3, skip_below=0.2)
    assert (decision.outcome, decision.mean_weight) == ("aggregated", pytest.approx(1 / 3))


@pytest.mark.parametrize(("weight", "lifted"), [(0.0, 0.1), (0.05, 0.1), (0.1, 0.1), (0.4, 0.4), (1.0, 1.0)])
def test_min_weight_lifts_only_what_lies_below_it(weight, lifted):
    assert lift(weight, 0.1) == lifted


def test_the_default_min_weight_lifts_nothing():
    assert [lift(weight, 0.0) for weight in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


def test_a_round_in_which_nobody_weighs_anything_is_skipped_even_where_no_round_should_be():
    decision = decide({"a": 0.0, "b": 0.0}, min_updates=1, skip_below=0.0)
    assert (decision.outcome, decision.why) == ("skipped", "all 2 clients weigh nothing")
