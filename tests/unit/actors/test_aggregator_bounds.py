"""What the aggregator makes of reference clients: bounds of a round worked out by hand, and what it remembers of them."""

import math
from dataclasses import replace

import pytest
import torch

from actors.messages import MeasuredReferences, Reading, ReferenceUpdate
from defense.bounds import ReferenceValues
from defense.doubt import Settled
from tests.unit.actors.builders import SHAPES, admitted, deliver, make_aggregator, rows, scores, update

FREE = {"canary": {}, "spectrum": {}, "consensus": {}, "false_positive_rate": 0.05}
"""No key sets a bound."""


def canary(client_id: str, rise: float) -> Reading:
    return Reading(client_id=client_id, signal="canary", values={"canary_rise": rise})


def reference(client_id: str, rise: float, malicious: bool = False, value=1.0) -> ReferenceUpdate:
    readings = (canary(client_id, rise),)
    return ReferenceUpdate(client_id=client_id, malicious=malicious, update=admitted(client_id, value), readings=readings)


REFERENCES = MeasuredReferences(
    updates=(
        reference("u1", 3.0, True),
        reference("b2", 0.2),
        reference("b1", 0.1),
        reference("b3", 0.3),
        reference("u0", 2.0, True),
    )
)


def close(made, rises: dict[str, float], references=None, round_index: int = 0):
    """A round of clients that raise the refusals' loss so."""
    made.open_round(round_index, list(rises), 0.5)
    version = {"round_index": round_index, "base_version": made.state().version}
    found = [deliver(made, c, update(c, 1.0, **version), readings=[canary(c, rise)]) for c, rise in rises.items()]
    return made.close_round(found, None, references)


def test_a_bound_follows_from_the_references_of_the_round_and_the_row_says_why_a_client_is_excluded():
    # Half way from the prediction limit, with t of 2 degrees of freedom at 0.95, to the median of the unsafe.
    limit = (0.2 + 2.919986 * 0.1 * math.sqrt(4 / 3) + 2.5) / 2
    made = make_aggregator("canary", defense=FREE)
    report = close(made, {"a": 1.5, "b": 1.6, "c": math.nan}, REFERENCES)
    assert report.bounds == {"canary": pytest.approx(limit, abs=1e-6)}
    found = rows(report)
    assert {name: row.weight for name, row in found.items()} == {"a": 1.0, "b": 0.0, "c": 0.0}
    told = [(row.excluded_by, row.excluded_value, row.excluded_bound, row.excluded_because) for row in found.values()]
    assert told[0] == (None,) * 4
    because = (
        "canary_rise 1.6 is at or above 1.52, half way from the 3 honest reference clients of round 1 to the unsafe; one like "
        "the honest lies beyond with probability 0.0038"
    )
    assert told[1] == ("canary", 1.6, pytest.approx(limit, abs=1e-6), because)
    assert told[2][:2] == ("canary", None)
    values = ReferenceValues(benign=(0.1, 0.2, 0.3), unsafe=(2.0, 3.0), origin="round 1")  # in order of client id
    assert made.state().references == {"canary_rise": values}


def test_a_round_without_a_refresh_and_a_restored_aggregator_judge_by_what_was_measured_last():
    made = make_aggregator("canary", defense=FREE)
    first = close(made, {"a": 0.1, "b": 0.2}, REFERENCES)
    again = make_aggregator("canary", defense=FREE)
    again.restore(made.state())
    for each in (made, again):
        report = close(each, {"a": 1.5, "b": 1.6}, round_index=1)
        assert report.bounds == first.bounds
        assert [row.weight for row in report.clients] == [1, 0]
        assert "of round 1" in report.clients[1].excluded_because


def test_without_any_reference_nobody_passes_and_the_round_says_so():
    report = close(make_aggregator("canary", defense=FREE), {"a": 0.0})
    assert (report.outcome, report.bounds, report.clients[0].weight) == ("skipped", {"canary": None}, 0.0)
    why = "no reference client was measured and defense.canary.max_rise is not set"
    assert report.why.endswith(f"; canary lets nobody pass: {why}")
    assert report.clients[0].excluded_because == f"canary_rise has no bound: {why}"


def test_a_level_that_does_not_separate_abstains_and_the_round_says_so():
    tame = MeasuredReferences(updates=(*REFERENCES.updates[1:4], reference("u0", 0.3, True)))
    report = close(make_aggregator("canary", defense=FREE), {"a": 99.0}, tame)
    assert (report.outcome, report.bounds, report.clients[0].weight) == ("aggregated", {"canary": None}, 1.0)
    why = "0 of 1 unsafe references lie above 0.419, the bound of the 3 honest reference clients of round 1"
    assert f"; canary abstains: {why}" in report.why


def test_spectrum_consensus_and_live_take_their_values_from_deltas_and_the_refitted_probe():
    # Of shape (2, 3) noise has 4/3: ones on the diagonal have 2 / (4/3), one direction 1 / (4/3).
    diagonal = {name: torch.eye(*shape) for name, shape in SHAPES.items()}
    ones = {name: torch.ones(*shape) for name, shape in SHAPES.items()}
    updates = [reference(f"b{i}", 0.0, value=value) for i, value in enumerate((ones, ones, diagonal))]
    scored = {"last_step_probability": {"benign": [0.1, 0.2, 0.3], "malicious": [0.9, 0.8]}}
    made = make_aggregator("live+spectrum+consensus", defense=FREE, threshold=None)
    made.open_round(0, ["a"], 0.5)
    found = deliver(made, "a", update("a", 1.0), scores=scores("a", 0.1, branch="update"))
    report = made.close_round([found], {}, MeasuredReferences(updates=(*updates, reference("u", 0.0, True)), scored=scored))
    known = made.state().references
    assert known["flatness"].benign == pytest.approx((0.75, 0.75, 1.5))
    assert known["flatness"].unsafe == (1.0,)
    assert known["last_step_probability"] == ReferenceValues(benign=(0.1, 0.2, 0.3), unsafe=(0.9, 0.8), origin="round 1")
    # Unit vectors with u.v = c = 4 / sqrt(12 x 4): b0 and b1 see (u + v) / |u + v|, b2 sees u.
    c = 4 / math.sqrt(48)
    assert known["agreement"].benign == pytest.approx(((1 + c) / math.sqrt(2 + 2 * c),) * 2 + (c,))
    assert known["agreement"].unsafe == (-1.0,)
    assert set(report.bounds) == {"live", "spectrum", "consensus"}
    # Spectrum's bound is above noise: it abstains.
    assert report.bounds["spectrum"] is None


def test_a_rejected_refresh_keeps_the_scores_of_the_probe_in_force_and_renews_the_rest():
    scored = {"last_step_probability": {"benign": [0.1, 0.2, 0.3], "malicious": [0.9, 0.8]}}
    made = make_aggregator("live+canary", defense=FREE, threshold=None)
    for round_index, references in enumerate((replace(REFERENCES, scored=scored), REFERENCES)):
        close(made, {}, references, round_index)
    assert {column: values.origin for column, values in made.state().references.items()} == {
        "last_step_probability": "round 1",
        "canary_rise": "round 2",
    }


def test_values_that_give_no_bound_leave_what_was_known():
    made = make_aggregator("canary", defense=FREE)
    close(made, {"a": 0.1}, REFERENCES)
    known = made.state().references
    for broken in (REFERENCES.updates[:3], (*REFERENCES.updates, reference("b4", math.nan))):
        close(made, {"a": 0.1}, MeasuredReferences(updates=broken), 1)
        assert made.state().references == known


def test_the_order_of_the_references_changes_no_bit():
    reports = []
    for updates in (REFERENCES.updates, REFERENCES.updates[::-1]):
        made = make_aggregator("canary+spectrum+consensus", defense=FREE)
        reports.append((close(made, {"a": 0.1, "b": 0.2}, MeasuredReferences(updates=updates)).bounds, made.state().references))
    assert reports[0] == reports[1]


def test_a_key_needs_no_references_and_min_weight_leaves_nobody_excluded():
    report = close(make_aggregator("canary", defense={"min_weight": 0.25}), {"a": 0.1, "b": 0.9, "c": 0.1})
    assert [(row.weight, row.excluded_by) for row in report.clients] == [(1.0, None), (0.25, None), (1.0, None)]


def test_the_update_of_a_reference_client_is_read_as_a_clients_and_one_of_another_shape_is_named():
    made = make_aggregator()
    client_id, read = made.read_reference("b0", update("b0", 2.0))
    assert (client_id, read.state.tolist()) == ("b0", [2.0] * 12)
    with pytest.raises(ValueError, match="reference client b0: "):
        made.read_reference("b0", update("b0", {"other": torch.zeros(2)}))


def test_an_unasked_signal_excludes_nobody_until_the_round_is_closed_again_as_if_it_had_not_been():
    rises = {"a": 0.1, "b": 9.0, "c": 0.2}
    asked = make_aggregator("canary", optimizer="fedavgm")
    expected = close(asked, rises)
    made = make_aggregator("canary", optimizer="fedavgm")
    made.open_round(0, list(rises), 0.5)
    found = [deliver(made, c, update(c, 1.0, round_index=0, base_version=0)) for c in rises]
    first = made.close_round(found, unasked=["canary"])
    assert {name: (row.weight, row.signals) for name, row in rows(first).items()} == dict.fromkeys(rises, (1.0, {}))
    assert made.state().version == 1
    made.reopen_round()
    again = made.close_round([replace(item, readings=(canary(item.client_id, rises[item.client_id]),)) for item in found])
    assert replace(again, aggregate_s=0, admit_s=0) == replace(expected, aggregate_s=0, admit_s=0)
    assert made.state() == asked.state()
    with pytest.raises(RuntimeError, match="no round was closed with an unasked signal"):
        made.reopen_round()


def test_clients_are_in_doubt_by_the_references_that_were_measured_last():
    made = make_aggregator("live", threshold=None, defense=FREE)
    made.open_round(0, ["a", "b"], 0.5)
    found = [
        deliver(made, c, update(c, 1.0, round_index=0, base_version=0), scores=scores(c, p, branch="update"))
        for c, p in (("a", 0.02), ("b", 0.4))
    ]
    assert made.in_doubt(found) == ["a", "b"]
    scored = {"last_step_probability": {"benign": (0.01, 0.02, 0.03), "malicious": (0.97, 0.98, 0.99)}}
    made.close_round(found, None, MeasuredReferences(updates=(), scored=scored))
    made.open_round(1, ["a", "b"], 0.5)
    assert made.in_doubt(found) == []
    assert made.state().settled["b"] == Settled(probability=0.4, flatness=0.0, rounds_done=1)
    higher = [replace(item, scores=tuple(replace(score, probability=0.45) for score in item.scores)) for item in found[1:]]
    assert made.in_doubt(higher) == ["b"]
    made.open_round(2, ["a", "b"], 0.5)
    assert made.in_doubt(found) == ["b"]


def test_a_refresh_that_left_no_scores_settles_no_doubt():
    made = make_aggregator("live+canary", defense=FREE, threshold=None)
    scored = {"last_step_probability": {"benign": [0.01, 0.02, 0.03], "malicious": [0.97, 0.98, 0.99]}}
    for round_index, (references, settled) in enumerate(((REFERENCES, set()), (replace(REFERENCES, scored=scored), {"a"}))):
        made.open_round(round_index, ["a"], 0.5)
        payload = update("a", 1.0, round_index=round_index, base_version=made.state().version)
        found = deliver(made, "a", payload, scores=scores("a", 0.3, branch="update"), readings=[canary("a", 0.1)])
        made.close_round([found], None, references)
        assert set(made.state().settled) == settled
