"""defense/signals.py: from the probabilities of a round's steps to flagged samples and the last probability."""

import math

import pytest

from defense.signals import ProbeEvidence, summarise_scores


def summarised(probabilities: dict[int, float], num_samples: int = 48, num_steps: int = 3) -> ProbeEvidence:
    """Steps of 16 samples at the threshold 0.8."""
    return summarise_scores("c", num_samples, probabilities, num_steps=num_steps, batch_size=16, threshold=0.8)


def test_a_flagged_step_flags_its_whole_batch():
    # Step 2 of three flagged: 16 of 48, ratio 1/3.
    evidence = summarised({1: 0.1, 2: 0.9, 3: 0.2})
    assert evidence == ProbeEvidence(client_id="c", num_samples=48, num_flagged=16, last_probability=0.2)
    assert evidence.ratio == pytest.approx(1 / 3)
    assert not evidence.is_flagged


@pytest.mark.parametrize(
    ("probabilities", "num_samples", "num_flagged", "last"),
    [
        ({1: 0.0, 2: 0.5, 3: 0.79}, 48, 0, 0.79),
        ({1: 0.8, 2: 0.7999999, 3: 0.0}, 48, 16, 0.0),  # at the threshold, and just below it
        ({1: 0.8, 2: 0.9, 3: 1.0}, 48, 48, 1.0),
        ({1: 0.1, 2: math.nan, 3: 0.1}, 48, 16, 0.1),
        # Two flagged steps are 32 samples, of a client that trained 20.
        ({1: 0.9, 2: 0.9, 3: 0.1}, 20, 20, 0.1),
        ({1: 0.9, 2: 0.1, 3: 0.1}, 20, 16, 0.1),
        # Withheld steps are flagged, and a withheld last step has probability 1.
        ({1: 0.1, 3: 0.1}, 48, 16, 0.1),
        ({1: 0.1, 2: 0.1}, 48, 16, 1.0),
        ({}, 48, 48, 1.0),
        # Steps that the round does not have make up for nothing, and the last step is 3.
        ({0: 0.0, 1: 0.1, 2: 0.1, 4: 0.0}, 48, 16, 1.0),
        ({1: 0.1, 2: 0.1, 3: 0.3, 4: 0.9}, 48, 0, 0.3),
        # The order in which scores arrive does not matter.
        ({3: 0.2, 1: 0.9, 2: 0.1}, 48, 16, 0.2),
    ],
)
def test_flagged_samples_and_the_last_probability(probabilities, num_samples, num_flagged, last):
    evidence = summarised(probabilities, num_samples)
    assert (evidence.num_flagged, evidence.last_probability) == (num_flagged, last)


def test_a_round_of_one_step_is_judged_by_it():
    evidence = summarised({1: 0.95}, num_samples=16, num_steps=1)
    assert (evidence.ratio, evidence.is_flagged) == (1.0, True)
