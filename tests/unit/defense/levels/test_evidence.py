"""Level evidence by hand: three equal verdicts freeze, audits and appeals unfreeze, and frozen clients run no shadow."""

import pytest

from defense.evidence import Evidence, Unasked
from defense.levels import evidence
from defense.levels.evidence import wants_shadow


def saw(num_flagged: int, last: float) -> Evidence:
    return Evidence(client_id="a", num_samples=48, num_flagged=num_flagged, last_probability=last)


GOOD, BAD = saw(0, 0.1), saw(48, 0.9)
DOUBTFUL = saw(24, 0.1)
"""Half of its steps flagged, the last one not: weight 1/128, verdict benign."""


def play(*seen: Evidence, **settings) -> list[float | str]:
    """Give the level a round's evidence each time it asks, `-` marking a round in which it does not; returns the weights."""
    state, weights, left = {}, [], list(seen)
    while left:
        asked = wants_shadow(state, "a", **{k: v for k, v in settings.items() if k != "verdicts"})
        item = left.pop(0) if asked else Unasked(client_id="a")
        (weight,), state = _weigh(state, item, settings)
        weights.append(weight if asked else f"- {weight:g}")
    return weights


def _weigh(state, item, settings):
    weights, new = evidence.weigh(state, [item], **settings)
    return list(weights.values()), new


def test_a_benign_client_is_frozen_at_the_mean_of_its_three_weights_and_audited_every_fifth_round():
    mean = (1 + 1 / 128 + 1) / 3
    weights = play(GOOD, DOUBTFUL, GOOD, GOOD, GOOD)
    rests = [f"- {mean:g}"] * 4
    assert weights == [1.0, 1 / 128, 1.0, *rests, pytest.approx(mean), *rests, pytest.approx(mean)]


def test_a_failed_audit_weighs_nothing_and_begins_again():
    assert play(GOOD, GOOD, GOOD, BAD, GOOD, GOOD, GOOD)[3:] == ["- 1"] * 4 + [0.0, 1.0, 1.0, 1.0]


def test_a_malicious_client_is_frozen_for_good_unless_it_may_appeal():
    state = {}
    for _ in range(3):
        weights, state = evidence.weigh(state, [BAD])
        assert weights == {"a": 0.0}
    for _ in range(50):
        assert not wants_shadow(state, "a")
        weights, state = evidence.weigh(state, [Unasked(client_id="a")])
        assert weights == {"a": 0.0}


def test_an_appeal_that_fails_waits_as_long_again_and_one_that_passes_begins_a_collection():
    weights = play(BAD, BAD, BAD, BAD, GOOD, GOOD, GOOD, BAD, appeal_after=2)
    assert weights == [0.0, 0.0, 0.0, "- 0", 0.0, "- 0", 1.0, 1.0, 1.0, *["- 1"] * 4, 0.0]


def test_mixed_verdicts_begin_the_count_again():
    # Two benign, one malicious, then three benign are needed.
    weights = play(GOOD, GOOD, saw(24, 0.9), GOOD, GOOD, GOOD, GOOD)
    assert weights == [1.0, 1.0, 1 / 128, 1.0, 1.0, 1.0, *["- 1"] * 4, 1.0]


def test_a_flagged_last_step_at_the_third_verdict_weighs_nothing_whatever_the_share():
    light = saw(16, 0.9)  # a third flagged: (2/3)^7
    assert play(light, light, light) == [pytest.approx((2 / 3) ** 7)] * 2 + [0.0]


def test_the_number_of_verdicts_is_a_parameter():
    assert play(GOOD, GOOD, verdicts=1, audit_every=2) == [1.0, "- 1", 1.0]


def test_evidence_that_was_not_asked_for_is_a_fault_of_the_caller():
    _, state = _weigh({}, GOOD, {"verdicts": 1})
    with pytest.raises(ValueError, match="client a is benign: shadow evidence is not due"):
        evidence.weigh(state, [GOOD])
    with pytest.raises(ValueError, match="client a is collecting: shadow evidence is due"):
        evidence.weigh({}, [Unasked(client_id="a")])
