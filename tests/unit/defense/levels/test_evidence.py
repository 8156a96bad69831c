"""Level evidence by hand: three equal verdicts freeze, audits and appeals unfreeze, and frozen clients run no shadow."""

import pytest

from defense.levels import evidence
from defense.levels.evidence import wants_shadow
from defense.signals import ProbeEvidence, Unasked
from tests.unit.defense.levels.builders import saw

GOOD, BAD = saw(0, 0.1), saw(48, 0.9)
DOUBTFUL = saw(24, 0.1)
"""Half of its steps flagged, the last one not: weight 1/128, verdict benign."""
RESTING = Unasked(client_id="a")


def play(*seen: ProbeEvidence, **settings) -> list[float | str]:
    """Give the level a round's evidence each time it asks, `-` marking a round in which it does not; returns the weights."""
    trust, weights, left = {}, [], list(seen)
    while left:
        asked = wants_shadow(trust, "a", **{k: v for k, v in settings.items() if k != "verdicts"})
        given, trust = evidence.weigh(trust, [left.pop(0) if asked else RESTING], **settings)
        weights.append(given["a"] if asked else f"- {given['a']:g}")
    return weights


def test_a_benign_client_is_frozen_at_the_mean_of_its_three_weights_and_audited_every_fifth_round():
    mean = (1 + 1 / 128 + 1) / 3
    weights = play(GOOD, DOUBTFUL, GOOD, GOOD, GOOD)
    rests = [f"- {mean:g}"] * 4
    assert weights == [1.0, 1 / 128, 1.0, *rests, pytest.approx(mean), *rests, pytest.approx(mean)]


def test_a_failed_audit_weighs_nothing_and_begins_again():
    assert play(GOOD, GOOD, GOOD, BAD, GOOD, GOOD, GOOD)[3:] == ["- 1"] * 4 + [0.0, 1.0, 1.0, 1.0]


def test_trust_is_the_mean_weight_of_the_latest_equal_verdicts_and_nothing_once_frozen_as_malicious():
    given = []
    trust = {}
    for seen in (GOOD, DOUBTFUL, BAD, BAD, BAD):
        given.append(evidence.trusts(trust, "a"))
        _, trust = evidence.weigh(trust, [seen])
    assert [*given, evidence.trusts(trust, "a")] == [None, 1.0, (1 + 1 / 128) / 2, 0.0, 0.0, 0.0]


def test_a_malicious_client_is_frozen_for_good_unless_it_may_appeal():
    trust = {}
    for seen in [BAD] * 3 + [RESTING] * 50:
        assert wants_shadow(trust, "a") == (seen is BAD)
        weights, trust = evidence.weigh(trust, [seen])
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
    _, trust = evidence.weigh({}, [GOOD], verdicts=1)
    with pytest.raises(ValueError, match="client a is benign: shadow evidence is not due"):
        evidence.weigh(trust, [GOOD])
    with pytest.raises(ValueError, match="client a is collecting: shadow evidence is due"):
        evidence.weigh({}, [RESTING])
