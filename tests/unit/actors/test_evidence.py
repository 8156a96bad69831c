"""From what the round collected about a client to the signals that the levels read, and none without all of them."""

import math

import pytest

from actors.evidence import Findings, find_signals, last_step_refusal, logged, scores_of, verdict
from actors.messages import AdmittedUpdate, ClientEvidence, ProbeScore, Reading
from defense.levels import SIGNAL_COLUMNS
from defense.signals import ClientSignals, Measured, ProbeEvidence, Unasked
from tests.unit.actors.builders import TRAINING, scores

UPDATE = AdmittedUpdate(client_id="a", num_samples=8, state=None)  # two steps of four samples; the state is not read
RISE = Reading(client_id="a", signal="canary", values={"canary_rise": 0.25})
FAILED = ProbeScore(client_id="a", failure="not scored in time")
OF_THE_UPDATE = scores("a", 0.7, branch="update", threshold=0.6)


def evidence(*found: ProbeScore | Reading) -> ClientEvidence:
    told, read = ([item for item in found if isinstance(item, kind)] for kind in (ProbeScore, Reading))
    return ClientEvidence(client_id="a", update=UPDATE, scores=tuple(told), readings=tuple(read))


def find(*found: ProbeScore | Reading, wanted: set[str], measured=None, asked: bool = True) -> Findings:
    return find_signals(
        evidence(*found),
        8,
        measured or {},
        wanted=wanted,
        unasked=() if asked else ("shadow",),
        training=TRAINING,
        update_threshold=0.6,
    )


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ("real", ProbeEvidence(client_id="a", num_samples=8, num_flagged=4, last_probability=0.9)),
        # Every step of a shadow that was asked for has been withheld.
        ("shadow", ProbeEvidence(client_id="a", num_samples=8, num_flagged=8, last_probability=1.0)),
        # The verdict on the update is one on all samples, at the bound of level live.
        ("update", ProbeEvidence(client_id="a", num_samples=8, num_flagged=8, last_probability=0.7, threshold=0.6)),
        ("canary", Measured(client_id="a", values={"canary_rise": 0.25})),
        ("spectrum", Measured(client_id="a", values={"flatness": 0.5})),
    ],
)
def test_each_signal_is_found_by_itself(signal, expected):
    found = find(*scores("a", 0.1, 0.9), *OF_THE_UPDATE, RISE, wanted={signal}, measured={"spectrum": {"flatness": 0.5}})
    assert found == Findings(signals=ClientSignals(client_id="a", by_signal={signal: expected}), reason=None)


def test_a_shadow_that_was_not_asked_for_is_not_missed():
    assert find(wanted={"shadow"}, asked=False).signals.by_signal == {"shadow": Unasked(client_id="a")}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([FAILED, RISE], "1 of 2 scores and readings failed, first: not scored in time"),
        (
            [*scores("a", 0.1, 0.1), Reading(client_id="a", signal="canary", failure="no memory")],
            "1 of 3 scores and readings failed",
        ),
        (scores("a", 0.1, 0.1), "no reading of the canary"),
        ([*scores("a", 0.1, 0.1), Reading(client_id="a", signal="validation", values={})], "no reading of the canary"),
    ],
)
def test_where_anything_failed_or_is_missing_there_are_no_signals_at_all(found, reason):
    result = find(*found, wanted={"real", "canary"})
    assert result.signals is None
    assert result.reason.startswith(f"no_evidence: {reason}")


def test_where_nothing_is_read_nothing_can_be_missing():
    assert find(FAILED, wanted=set()) == Findings(signals=ClientSignals(client_id="a", by_signal={}), reason=None)


def test_a_message_that_the_probe_refused_is_named_beside_the_signals():
    refused = [ProbeScore(client_id="a", refusal=why) for why in ("duplicate: sent twice", "malformed: no")]
    found = find(*refused, *scores("a", 0.1, 0.1), wanted={"real"})
    assert found.reason == "step_delta_refused: duplicate: sent twice"
    assert found.signals.by_signal["real"].num_flagged == 0


def test_the_last_step_is_the_last_that_was_sent_and_not_the_update():
    refused = ProbeScore(client_id="a", refusal="duplicate: sent twice")
    assert last_step_refusal(evidence(*scores("a", 0.1), refused, *OF_THE_UPDATE, RISE)) == "duplicate: sent twice"
    assert last_step_refusal(evidence(refused, *scores("a", 0.1), *OF_THE_UPDATE)) is None
    assert last_step_refusal(evidence()) is None


def test_what_is_logged():
    found = find(*scores("a", 0.1, 0.9), *OF_THE_UPDATE, RISE, wanted={"real", "update", "canary"}).signals
    assert logged(found, SIGNAL_COLUMNS) == {"canary_rise": 0.25}
    assert verdict(found) == found.by_signal["update"]  # the last of the probe's
    unknown = Measured(client_id="a", values={"flatness": math.nan, "validation_norm": 1.0})
    assert logged(ClientSignals(client_id="a", by_signal={"spectrum": unknown}), SIGNAL_COLUMNS) == {"flatness": None}
    assert (logged(None, SIGNAL_COLUMNS), verdict(None)) == ({}, None)
    assert scores_of(evidence(*scores("a", 0.1, 0.9), *OF_THE_UPDATE), "real") == scores("a", 0.1, 0.9)
