"""defense/evidence.py: from the probabilities of a round's steps to flagged samples and the last probability."""

import pytest

from defense.evidence import Evidence, gather_evidence


def gather(probabilities: dict[int, float], num_samples: int = 48, num_steps: int = 3) -> Evidence:
    """Steps of 16 samples at the threshold 0.8."""
    return gather_evidence("c", num_samples, probabilities, num_steps=num_steps, batch_size=16, threshold=0.8)


def test_a_flagged_step_flags_its_whole_batch():
    # Step 2 of three flagged: 16 of 48, ratio 1/3.
    assert gather({1: 0.1, 2: 0.9, 3: 0.2}) == Evidence(client_id="c", num_samples=48, num_flagged=16, last_probability=0.2)
    assert gather({1: 0.1, 2: 0.9, 3: 0.2}).ratio == pytest.approx(1 / 3)


def test_clean_steps_flag_nothing():
    evidence = gather({1: 0.0, 2: 0.5, 3: 0.79})
    assert (evidence.num_flagged, evidence.ratio) == (0, 0.0)


def test_a_probability_at_the_threshold_is_flagged_and_one_just_below_is_not():
    assert gather({1: 0.8, 2: 0.7999999, 3: 0.0}).num_flagged == 16


def test_every_step_flagged_flags_every_sample():
    evidence = gather({1: 0.8, 2: 0.9, 3: 1.0})
    assert (evidence.num_flagged, evidence.ratio) == (48, 1.0)


def test_flagged_samples_are_capped_at_the_samples_trained():
    # Two flagged steps would be 2 x 16 = 32, but the client trained 20.
    evidence = gather({1: 0.9, 2: 0.9, 3: 0.1}, num_samples=20)
    assert (evidence.num_flagged, evidence.ratio) == (20, 1.0)
    # One flagged step of a client with 20 samples: 16 of 20.
    assert gather({1: 0.9, 2: 0.1, 3: 0.1}, num_samples=20).ratio == pytest.approx(0.8)


def test_a_withheld_step_counts_as_flagged():
    evidence = gather({1: 0.1, 3: 0.1})
    assert (evidence.num_flagged, evidence.last_probability) == (16, 0.1)


def test_a_withheld_last_step_has_probability_1():
    evidence = gather({1: 0.1, 2: 0.1})
    assert (evidence.num_flagged, evidence.last_probability) == (16, 1.0)


def test_a_client_that_withholds_every_step_is_flagged_whole():
    assert gather({}) == Evidence(client_id="c", num_samples=48, num_flagged=48, last_probability=1.0)


def test_probabilities_of_steps_the_round_does_not_have_are_ignored():
    # A clean step 0 or 4 makes up for nothing; the last step is 3, not the highest number sent.
    assert gather({0: 0.0, 1: 0.1, 2: 0.1, 4: 0.0}) == gather({1: 0.1, 2: 0.1})
    assert gather({1: 0.1, 2: 0.1, 3: 0.3, 4: 0.9}) == gather({1: 0.1, 2: 0.1, 3: 0.3})


def test_the_order_in_which_scores_arrive_does_not_matter():
    assert gather({3: 0.2, 1: 0.9, 2: 0.1}) == gather({1: 0.9, 2: 0.1, 3: 0.2})


def test_a_round_of_one_step_is_judged_by_it():
    assert gather({1: 0.95}, num_samples=16, num_steps=1) == Evidence(
        client_id="c", num_samples=16, num_flagged=16, last_probability=0.95
    )


def test_a_probability_that_is_no_number_counts_as_flagged():
    evidence = gather_evidence("a", 48, {1: 0.1, 2: float("nan"), 3: 0.1}, num_steps=3, batch_size=16, threshold=0.8)
    assert evidence.num_flagged == 16
