"""From readings to evidence: every source that a level reads, and no evidence without all of them."""

import math

import pytest
import torch

from actors.gathering import gather, last_step_refusal
from actors.messages import CanaryReading, LoRAUpdate, ProbeScore, ValidationReading
from defense.evidence import Evidence, Rise, Unasked, Validated
from tests.unit.actors.builders import TRAINING, scores

MESSAGE = LoRAUpdate(
    client_id="a", round_index=0, base_version=0, num_samples=8, loss=1.0, train_s=0.1, tensors={}
)  # two steps of four samples
DELTA = {"m": torch.eye(2)}
RISE = CanaryReading(client_id="a", rise=0.25)


def found(*readings, sources, shadow_asked=True):
    return gather(MESSAGE, DELTA, readings, sources=sources, shadow_asked=shadow_asked, training=TRAINING)


def test_each_source_gives_its_own_evidence():
    verdict = ProbeScore(client_id="a", branch="update", step=1, probability=0.7, threshold=0.6)
    got = found(*scores("a", 0.1, 0.9), verdict, RISE, sources={"real", "update", "canary"}).evidence.by_source
    assert got["real"] == Evidence(client_id="a", num_samples=8, num_flagged=4, last_probability=0.9)
    assert got["update"] == Evidence(client_id="a", num_samples=8, num_flagged=8, last_probability=0.7, threshold=0.6)
    assert got["canary"] == Rise(client_id="a", rise=0.25)


def test_the_spectrum_is_the_updates_own_and_needs_no_reading():
    (got,) = found(sources={"spectrum"}).evidence.by_source.values()
    assert got.flatness == pytest.approx(5 / 3)


def test_a_shadow_that_was_not_asked_for_is_not_missed_and_one_that_was_counts_as_flagged():
    assert found(sources={"shadow"}, shadow_asked=False).evidence.by_source == {"shadow": Unasked(client_id="a")}
    withheld = found(sources={"shadow"}).evidence.by_source["shadow"]
    assert (withheld.num_flagged, withheld.last_probability) == (8, 1.0)


def test_a_failed_reading_of_any_source_is_no_evidence_at_all():
    failed = ProbeScore(client_id="a", failure="not scored in time")
    for readings in ((failed, RISE), (*scores("a", 0.1, 0.1), CanaryReading(client_id="a", failure="out of memory"))):
        result = found(*readings, sources={"real", "canary"})
        assert result.evidence is None
        assert result.reason.startswith("no_evidence: 1 steps without a score")


def test_without_a_reading_the_canary_gives_no_evidence_and_says_why():
    assert found(sources={"canary"}).reason == "no_evidence: no reading of the canary"
    refused = found(CanaryReading(client_id="a", refusal="not_finite: NaN"), sources={"canary"})
    assert refused.evidence is None
    assert refused.reason == "no_evidence: the canary refused the update: not_finite: NaN"


def test_validation_gives_its_figures_and_is_told_apart_from_the_canary():
    seen = ValidationReading(client_id="a", cosine=0.5, fall=0.1, norm=2.0)
    got = found(RISE, seen, sources={"canary", "validation"}).evidence.by_source
    assert got["validation"] == Validated(client_id="a", cosine=0.5, fall=0.1, norm=2.0)
    assert got["canary"] == Rise(client_id="a", rise=0.25)
    assert found(RISE, sources={"validation"}).reason == "no_evidence: no reading of the validation"
    untrained = found(ValidationReading(client_id="a", fall=0.1, norm=2.0), sources={"validation"})
    assert math.isnan(untrained.evidence.by_source["validation"].cosine)


def test_where_nothing_is_read_nothing_can_be_missing():
    failed = ProbeScore(client_id="a", failure="not scored in time")
    assert found(failed, sources=frozenset()).evidence.by_source == {}


def test_the_last_step_is_the_last_that_was_sent_and_not_the_update():
    refused = ProbeScore(client_id="a", refusal="duplicate: sent twice")
    update = ProbeScore(client_id="a", branch="update", refusal="malformed: no")
    assert last_step_refusal([*scores("a", 0.1), refused, update, RISE]) == "duplicate: sent twice"
    assert last_step_refusal([refused, *scores("a", 0.1), update]) is None
    assert last_step_refusal([]) is None
