"""defense/levels/live.py: all or nothing by the verdict on the submitted update, or the soft curve."""

import pytest

from defense.evidence import Evidence
from defense.levels import live


def judged(probability: float, threshold: float = 0.8, **settings) -> float:
    evidence = Evidence(client_id="a", num_samples=16, num_flagged=0, last_probability=probability, threshold=threshold)
    weights, state = live.weigh({"kept": 1}, [evidence], **settings)
    assert state == {"kept": 1}
    return weights["a"]


@pytest.mark.parametrize(("probability", "weight"), [(0.0, 1.0), (0.7999, 1.0), (0.8, 0.0), (1.0, 0.0), (float("nan"), 0.0)])
def test_at_the_threshold_a_client_weighs_nothing(probability, weight):
    assert judged(probability) == weight


def test_the_threshold_is_that_of_the_probe_that_gave_the_score():
    assert judged(0.5, threshold=0.4) == 0.0
    assert judged(0.5, threshold=0.6) == 1.0


def test_softly_a_client_weighs_by_the_client_levels_curve():
    # At the threshold the curve of the lower side ends at half of logistic(10 (1 - 0.5)) = 0.99330714907571527.
    assert judged(0.8, soft=True) == pytest.approx(1 - 0.5 * 0.99330714907571527)
    # Half way up the upper side: 1/2 + 1/2 x 1/2.
    assert judged(0.9, soft=True) == pytest.approx(0.25)
    assert judged(0.45, threshold=0.9, soft=True) == pytest.approx(0.75)


def test_every_client_is_judged_by_itself():
    evidence = [
        Evidence(client_id=name, num_samples=16, num_flagged=0, last_probability=p) for name, p in (("a", 0.9), ("b", 0.1))
    ]
    assert live.weigh({}, evidence)[0] == {"a": 0.0, "b": 1.0}
    assert live.weigh({}, [])[0] == {}
