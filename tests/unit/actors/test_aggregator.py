"""The aggregator without a cluster: what becomes of a round's updates and of the evidence on them, worked out by hand.

What it refuses on delivery is in `test_admission.py`, other rules than FedAvg in `test_aggregator_rules.py`.
"""

import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.messages import AdmittedUpdate, ClientEvidence, ProbeScore, Reading
from actors.wire import decode_tensors, encode_tensors
from defense.admission.settings import AdmissionConfig
from defense.rules.round_updates import WeightedUpdate
from tests.unit.actors.builders import (
    B0,
    SHAPES,
    TRAINING,
    deliver,
    filled,
    make_aggregator,
    random_state,
    rows,
    run_round,
    scores,
    step_delta,
    update,
    value_of,
)

FAILED = ProbeScore(client_id="a", failure="not scored in time")
REFUSED = ProbeScore(client_id="a", refusal="norm_exceeded: 9")


def opened(level: str = "none", clients: str = "ab", **settings):
    made = make_aggregator(level, **settings)
    made.open_round(0, list(clients), 0.5)
    return made


def with_steps(made, client_id: str, value: float, *probabilities: float, branch: str = "real", **sent) -> ClientEvidence:
    """A delivery at a level that weighs step deltas."""
    last = step_delta(client_id, value, **sent)
    return deliver(made, client_id, update(client_id, value, **sent), last, scores(client_id, *probabilities, branch=branch))


# Weights


def test_plain_fedavg_weighs_by_samples():
    made = opened()
    evidence = [
        deliver(made, "a", update("a", 1.0, num_samples=2)),
        deliver(made, "b", update("b", 0.5, num_samples=6)),
    ]
    report = made.close_round(evidence)
    assert (report.outcome, report.adapter_version) == ("aggregated", 1)
    assert value_of(made) == pytest.approx((2 * 1.0 + 6 * 0.5) / 8)
    assert [row.share for row in report.clients] == [0.25, 0.75]


@pytest.mark.parametrize("order", ["abcde", "dbeca"])
def test_the_fold_is_a_float64_sum_in_order_of_id_to_the_bit_whatever_the_order_of_delivery_and_evidence(order):
    start, states = random_state(9), {name: random_state(i) for i, name in enumerate("abcde")}
    samples, flagged = {name: 4 + i for i, name in enumerate("abcde")}, {"b": 4, "d": 4}
    made, evidence = opened("step", "abcde", start=start), []
    for name in order:
        last, found = step_delta(name, {B0: states[name][B0] - start[B0]}), scores(name, 0.1, 0.9 if name in flagged else 0.1)
        evidence.append(deliver(made, name, update(name, states[name], num_samples=samples[name]), last, found))
    made.close_round(evidence[::-1])
    assert list(made.state().trust["step"]) == list("abcde")  # a checkpoint is the same to the byte
    # theta + sum n w delta / sum n w, with the weights of level step's first round.
    expected = {}
    for name, before in start.items():
        total, mass, theta = 0.0, 0.0, before.double().numpy()
        for client_id, n in samples.items():
            alpha, beta = 0.95 * 1.0 + n - flagged.get(client_id, 0), 0.95 * 1.0 + flagged.get(client_id, 0)
            n_w = n * (alpha / (alpha + beta))
            total, mass = total + n_w * (states[client_id][name].double().numpy() - theta), mass + n_w
        expected[name] = torch.from_numpy((theta + total / mass).astype(np.float32))
    assert made.adapter() == encode_tensors(expected)


def test_identical_updates_return_themselves_to_the_bit():
    made, state = opened(clients="abcde"), random_state(0)
    made.close_round([deliver(made, name, update(name, state, num_samples=i + 1)) for i, name in enumerate("abcde")])
    assert made.adapter() == encode_tensors(state)


def test_step_level_weighs_the_aggregate_and_trust_lasts_over_rounds():
    # a: 8 samples, none flagged: alpha .95 + 8, beta .95. b: one of two steps flagged: 4.95 / 9.9 = 0.5.
    made = opened("step")
    report = made.close_round([with_steps(made, "a", 1.0, 0.1, 0.2), with_steps(made, "b", 0.0, 0.9, 0.2)])
    assert [row.weight for row in report.clients] == pytest.approx([8.95 / 9.9, 0.5])
    assert [row.malicious_ratio for row in report.clients] == [0, 0.5]
    assert [row.last_step_probability for row in report.clients] == [0.2, 0.2]
    assert [(row.num_steps_scored, row.probe_version) for row in report.clients] == [(2, 1), (2, 1)]
    assert value_of(made) == pytest.approx(8.95 / (8.95 + 4.95))
    # Round 2 of a, nothing flagged: alpha .95 * 8.95 + 8 = 16.5025, beta .95 * .95 = .9025.
    made.open_round(1, ["a"], 0.5)
    start = decode_tensors(made.adapter())
    moved = {name: tensor + 1 for name, tensor in start.items()}
    version = {"round_index": 1, "base_version": 1}
    last = step_delta("a", {B0: moved[B0] - start[B0]}, **version)
    report = made.close_round([deliver(made, "a", update("a", moved, **version), last, scores("a", 0.1, 0.1))])
    assert report.clients[0].weight == pytest.approx(16.5025 / (16.5025 + 0.9025))
    assert report.clients[0].signals == {"trust_step": report.clients[0].weight}


def test_consensus_excludes_a_client_that_pulls_against_the_others():
    # Cosines: a and b have the others (+ and -) cancel, 0; c has both against it, -1. Then c has no say: a and b agree, 1.
    made = make_aggregator("consensus")
    for round_index, expected in enumerate([(0.0, 0.0, -1.0), (1.0, 1.0, -1.0)]):
        start = value_of(made)
        report = run_round(made, {"a": start + 1, "b": start + 1, "c": start - 1}, round_index)
        assert [row.weight for row in report.clients] == [1, 1, 0]
        assert [row.signals["agreement"] for row in report.clients] == pytest.approx(expected)
        assert value_of(made) == start + 1
    # Above the bound of -0.1 in the mean, the first round faded to 0.9: (0.9 x 0.1 + 1.1) / 1.9 for a and b.
    assert [row.signals["trust_consensus"] for row in report.clients] == pytest.approx([1.19 / 1.9, 1.19 / 1.9, -0.9])
    assert made.state().trust["consensus"]["c"] == {"excess": pytest.approx(0.9 * -0.9 - 0.9), "rounds": pytest.approx(1.9)}


def test_consensus_gives_no_verdict_that_would_exclude_half_of_the_clients():
    made = make_aggregator("consensus")
    report = run_round(made, {"a": 1.0, "b": 1.0, "c": -1.0, "d": -1.0})
    assert [row.weight for row in report.clients] == [1] * 4
    assert [row.signals["agreement"] for row in report.clients] == pytest.approx([-1.0] * 4)
    assert (report.outcome, value_of(made), made.state().trust) == ("aggregated", 0.0, {"consensus": {}})


def test_consensus_compares_only_clients_that_the_other_levels_let_through():
    made = make_aggregator("live+consensus")
    report = run_round(made, {"a": 1.0, "b": 1.0, "c": -1.0}, flagged="c")
    assert [row.weight for row in report.clients] == [1, 1, 0]
    assert [row.signals.get("agreement") for row in report.clients] == [pytest.approx(1), pytest.approx(1), None]
    assert [row.signals["trust_consensus"] for row in report.clients] == [pytest.approx(1.1), pytest.approx(1.1), None]
    assert set(made.state().trust["consensus"]) == {"a", "b"}


ONE_FLAGGED = {"a": (1.0, 6), "b": (0.5, 3), "c": (3.0, 3)}
"""Client id -> value and samples; c weighs nothing."""


@pytest.mark.parametrize(
    ("values", "settings", "shares", "result"),
    [
        # Sum n w delta = 6 + 1.5 = 7.5, by sum n w = 9 or by sum n = 12.
        (ONE_FLAGGED, {}, [6 / 9, 3 / 9, 0], 7.5 / 9),
        (ONE_FLAGGED, {"normalisation": "samples"}, [0.5, 0.25, 0], 7.5 / 12),
        # Any rule's step is shortened by the samples that do not count: the median of 1 and 0.5 is 0.75, times 9/12.
        (ONE_FLAGGED, {"normalisation": "samples", "rule": "median"}, [0.5, 0.25, 0], 0.75 * 9 / 12),
        # 6 and 3 with a share of 0.6: 4.5 and 3. (4.5 x 1 + 3 x 0.5) / 7.5 = 0.8.
        (ONE_FLAGGED, {"max_share": 0.6}, [0.6, 0.4, 0], 0.8),
        # Three cannot have 0.3 each, so parts are equal: the mean of 0.5, 1 and 3, and their median.
        ({"a": (0.5, 8), "b": (1.0, 8), "d": (3.0, 1)}, {"max_share": 0.3}, [1 / 3] * 3, 1.5),
        ({"a": (0.5, 8), "b": (1.0, 8), "d": (3.0, 1)}, {"max_share": 0.3, "rule": "median"}, [1 / 3] * 3, 1.0),
        # 8, 2 and 1 with a share of 0.6: 4.5, 2 and 1. The median weighs by w alone, which bounds nobody: 1, 2 and 3.
        ({"a": (1.0, 8), "b": (2.0, 2), "d": (3.0, 1)}, {"max_share": 0.6}, [4.5 / 7.5, 2 / 7.5, 1 / 7.5], 11.5 / 7.5),
        ({"a": (1.0, 8), "b": (2.0, 2), "d": (3.0, 1)}, {"max_share": 0.6, "rule": "median"}, [0.6, 2 / 7.5, 1 / 7.5], 2.0),
        # Two clients of a share of 0.25 each; the other half of the step is missing: (1 + 0.5) / 4.
        ({"a": (1.0, 8), "b": (0.5, 8)}, {"max_share": 0.25, "normalisation": "samples"}, [0.25, 0.25], 0.375),
    ],
)
def test_how_much_of_a_round_one_client_decides(values, settings, shares, result):
    made = opened("live", "".join(values), **settings)
    report = made.close_round(
        [
            deliver(
                made,
                name,
                update(name, value, num_samples=count),
                scores=scores(name, 0.9 if name == "c" else 0.1, branch="update", threshold=0.8),
            )
            for name, (value, count) in values.items()
        ]
    )
    assert [row.share for row in report.clients] == pytest.approx(shares)
    assert [row.weight for row in report.clients] == [0 if name == "c" else 1 for name in values]
    assert value_of(made) == pytest.approx(result, abs=1e-6)


# Evidence


def test_live_level_counts_an_update_wholly_or_not_at_all():
    # Needs no step delta. b is at the threshold and weighs nothing.
    made = opened("live", threshold=0.7)
    evidence = [
        deliver(made, name, update(name, value), scores=scores(name, probability, branch="update"))
        for name, value, probability in (("a", 1.0, 0.69), ("b", 3.0, 0.7))
    ]
    report = made.close_round(evidence)
    assert [(row.weight, row.malicious_ratio, row.flagged) for row in report.clients] == [(1, 0, False), (0, 1, True)]
    assert value_of(made) == 1.0


def test_readings_decide_at_the_levels_that_read_them_and_are_logged():
    made = opened("canary+fltrust")
    evidence = [
        deliver(
            made,
            name,
            update(name, 1.0),
            readings=[
                Reading(client_id=name, signal="canary", values={"canary_rise": rise}),
                Reading(client_id=name, signal="validation", values={"validation_cosine": cosine, "validation_fall": 0.1}),
            ],
        )
        for name, rise, cosine in (("a", 0.25, 0.5), ("b", 0.75, math.nan))
    ]
    report = made.close_round(evidence)
    assert [row.weight for row in report.clients] == [0.5, 0.0]
    logged = [{"canary_rise": 0.25, "validation_cosine": 0.5}, {"canary_rise": 0.75, "validation_cosine": None}]
    assert [row.signals for row in report.clients] == [{**own, "validation_fall": 0.1} for own in logged]


def test_the_spectrum_is_measured_on_the_delta_itself():
    # Matrices with ones on the diagonal have two directions alike, those of ones have one. Noise of shape (2, 3) has
    # (6 + 2) / (2 + 3 + 1) = 4/3.
    flat = {name: torch.eye(*shape) for name, shape in SHAPES.items()}
    made = opened("spectrum")
    report = made.close_round([deliver(made, "a", update("a", flat)), deliver(made, "b", update("b", 1.0))])
    assert [row.signals["flatness"] for row in report.clients] == pytest.approx([1.5, 0.75])
    assert [row.weight for row in report.clients] == [0, 1]


@pytest.mark.parametrize(
    ("level", "branch", "found", "reason"),
    [
        ("live", None, [], None),  # counts as withheld, so as flagged
        ("live", None, [FAILED], "no_evidence: 1 of 1 scores and readings failed, first: not scored in time"),
        ("live", None, [REFUSED], "step_delta_refused: norm_exceeded: 9"),
        ("shadow", "shadow", [*scores("a", 0.1, branch="shadow"), FAILED], "no_evidence: 1 of 2 scores and readings failed"),
        ("shadow", "shadow", scores("a", 0.1, 0.1, branch="real"), None),  # of the other branch
        ("canary", None, scores("a", 0.1, branch="update"), "no_evidence: no reading of the canary"),
        ("canary", None, [FAILED], "no_evidence: 1 of 1 scores and readings failed"),
        ("live+zeno", None, scores("a", 0.1, branch="update"), "no_evidence: no reading of the validation"),
    ],
)
def test_without_evidence_no_weight(level, branch, found, reason):
    made = opened(level, "a", defense={"skip_below": 0.0})
    last = step_delta("a", 2.0) if branch else None
    report = made.close_round([deliver(made, "a", update("a", 2.0), last, found)])
    row = report.clients[0]
    assert (row.admitted, row.weight, row.share, row.num_samples) == (True, 0, 0, 8)
    assert row.reason == reason or row.reason.startswith(reason)
    assert (report.outcome, value_of(made)) == ("skipped", 0)


@pytest.mark.parametrize("found", [[*scores("a", 0.1, branch="shadow"), FAILED], None])
def test_min_weight_lifts_valid_evidence_after_the_gate_and_nothing_else(found):
    made = opened("shadow", "abc", defense={"min_weight": 0.5})
    evidence = [with_steps(made, name, 1.0, p, p, branch="shadow") for name, p in (("b", 0.1), ("c", 0.9))]
    of_a = deliver(made, "a", update("a", 2.0), step_delta("a", 2.0), found or ())
    report = made.close_round(evidence if found is None else [of_a, *evidence])
    assert [row.weight for row in report.clients] == [0, 1, 0.5]
    assert report.mean_weight == pytest.approx(1 / 2 if found is None else 1 / 3)
    assert report.clients[0].reason.startswith("no_evidence: ")
    assert report.clients[0].admitted == (found is not None)
    assert report.clients[0].num_bytes == 48  # it was received
    assert value_of(made) == 1.0


def test_no_minimum_lifts_a_client_that_is_frozen_as_malicious():
    made = make_aggregator("evidence", defense={"min_weight": 0.5, "skip_below": 0.0, "evidence": {"verdicts": 1}})
    for round_index in range(2):
        assert made.open_round(round_index, ["a", "b"], 0.5).shadow_ids == ({"a", "b"} if round_index == 0 else set())
        sent = {"round_index": round_index, "base_version": round_index}
        start = value_of(made)
        evidence = []
        for name, p in (("a", 0.9), ("b", 0.1)):
            last = step_delta(name, 1.0, **sent)
            found = scores(name, p, p, branch="shadow") if round_index == 0 else []
            evidence.append(deliver(made, name, update(name, start + 1, **sent), last, found))
        report = made.close_round(evidence)
        assert [row.weight for row in report.clients] == [0, 1]
    assert [row.malicious_ratio for row in report.clients] == [None, None]


@pytest.mark.parametrize("found", [[*scores("a", 0.1, 0.1), REFUSED], [REFUSED]])
def test_a_last_step_delta_that_the_probe_refused_ties_nothing(found):
    """It is tied to the update. Were it a second one after a harmless first, the first would have been scored."""
    made = opened("step")
    of_a = deliver(made, "a", update("a", 1.0), step_delta("a", 1.0), found)
    row = rows(made.close_round([of_a, with_steps(made, "b", 0.5, 0.1, 0.1)]))["a"]
    assert row.reason == "untied_evidence: the last step delta was refused: norm_exceeded: 9"
    assert (row.admitted, row.weight, row.num_samples, row.num_bytes) == (False, 0, 0, 48)
    assert value_of(made) == 0.5


def test_a_refused_step_delta_before_the_last_is_one_that_was_withheld():
    made = opened("step", "a")
    found = [REFUSED, *scores("a", 0.1, 0.1)[1:]]
    row = made.close_round([deliver(made, "a", update("a", 1.0), step_delta("a", 1.0), found)]).clients[0]
    assert (row.admitted, row.malicious_ratio, row.reason) == (True, 0.5, "step_delta_refused: norm_exceeded: 9")
    assert row.weight == 0.5


def test_evidence_on_a_client_that_was_not_admitted_is_an_error():
    made = opened()
    found = deliver(made, "a", update("a", 1.0))
    assert not made.admit("b", b"junk")[0].admitted
    for client_id in ("b", "c"):
        with pytest.raises(RuntimeError, match=f"there is evidence on {client_id}, whose update was not admitted this round"):
            made.close_round([found, ClientEvidence(client_id=client_id, update=found.update)])


# Outcomes


def test_dominated_rounds_are_skipped_but_trust_is_updated():
    made = opened("shadow")
    report = made.close_round([with_steps(made, name, 1.0, 0.9, 0.9, branch="shadow") for name in "ab"])
    assert (report.outcome, report.adapter_version, value_of(made)) == ("skipped", 0, 0)
    assert "below defense.skip_below=0.2" in report.why
    assert all(row.round_outcome == "skipped" and row.share == 0 and row.admitted for row in report.clients)


@pytest.mark.parametrize(("min_updates", "weight"), [(1, 16.5025 / (16.5025 + 0.9025)), (2, 8.95 / 9.9)])
def test_skipped_rounds_update_trust_and_missing_quorums_do_not(min_updates, weight):
    made = make_aggregator("step", min_updates=min_updates, defense={"skip_below": 1.0})
    for round_index in range(2):
        made.open_round(round_index, ["a"], 0.5)
        report = made.close_round([with_steps(made, "a", 1.0, 0.1, 0.1, round_index=round_index)])
    assert report.outcome == {1: "skipped", 2: "no_quorum"}[min_updates]
    assert report.clients[0].weight == pytest.approx(weight)


def test_too_few_updates_are_no_quorum_and_a_client_without_an_update_is_recorded_with_its_reason():
    made = make_aggregator(min_updates=2)
    for quorum, outcome in ((None, "no_quorum"), (1, "aggregated")):
        made.open_round(0, ["a", "b", "c"], 0.5, quorum)
        report = made.close_round([deliver(made, "a", update("a", 1.0))], {"b": "late"})
        assert report.outcome == outcome
        assert {name: row.reason for name, row in rows(report).items()} == {"a": None, "b": "late", "c": "nothing was received"}
        assert value_of(made) == (outcome == "aggregated")
    made.open_round(0, ["a", "b"], 0.5)
    assert "0 updates were admitted, clients.min_updates=2 are needed" in made.close_round([]).why


def test_the_first_reason_stands():
    made = opened(clients="abc")
    first = deliver(made, "a", update("a", 1.0))
    refused, _ = made.admit("b", b"junk")
    for client_id in "ab":
        answer, admitted = made.admit(client_id, update(client_id, 3.0))
        assert (answer.reason, admitted) == (f"duplicate: {client_id} was already received this round", None)
    found = rows(made.close_round([first], {"b": "late", "c": "late"}))
    assert [found[name].reason for name in "abc"] == [None, refused.reason, "late"]
    assert value_of(made) == 1.0


def test_an_admitted_update_that_was_lost_afterwards_counts_for_nothing():
    made = opened()
    deliver(made, "a", update("a", 3.0))
    report = made.close_round([deliver(made, "b", update("b", 1.0))], {"a": "lost with its node"})
    assert (rows(report)["a"].admitted, rows(report)["a"].reason) == (False, "lost with its node")
    assert (value_of(made), report.mean_weight) == (1.0, 1.0)


def test_calls_outside_a_round_are_refused():
    made = make_aggregator()
    for call in (lambda: made.close_round([]), lambda: made.admit("a", update("a", 1.0)), lambda: made.control_difference("a")):
        with pytest.raises(RuntimeError, match="no round is open"):
            call()


def test_an_open_round_is_not_part_of_the_state_and_restoring_discards_it():
    made, untouched = opened("step"), make_aggregator("step")
    with_steps(made, "a", 1.0, 0.1, 0.1)
    assert made.state() == untouched.state()
    made.restore(made.state())
    with pytest.raises(RuntimeError, match="no round is open"):
        made.close_round([])


def test_the_report_says_how_many_bytes_came():
    made = opened(clients="abcde")
    first = deliver(made, "a", update("a", 1.0, train_s=1 / 3))
    assert made.admit("b", update("b", 1.0, train_s=0.5, num_samples=99))[0].reason.startswith("bad_count")
    made.admit("c", b"junk")
    made.admit("d", 7)
    report = made.close_round([first], {"e": "late"})
    # Twelve float32 of a message; its header does not count, and all of what is no message.
    assert [row.num_bytes for row in report.clients] == [48, 48, 4, 0, 0]
    assert [row.update_norm for row in report.clients] == [pytest.approx(12**0.5), *[None] * 4]


def test_seconds_of_a_round_are_those_of_its_updates_and_of_its_end(monkeypatch):
    made = opened()
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 20.5])
    monkeypatch.setattr("actors.aggregator.time.perf_counter", lambda: next(ticks))
    found = deliver(made, "a", update("a", 1.0))
    made.admit("b", b"junk")
    report = made.close_round([found])
    assert (report.admit_s, report.aggregate_s) == (3.0, 0.5)


# Memory


def test_the_aggregator_holds_no_update_that_it_has_admitted():
    made = opened(training=TRAINING.model_copy(update={"scaffold": True}))
    _, admitted = made.admit("a", update("a", 1.0, control_variate=filled(0.0)))
    alive = [weakref.ref(admitted.state), weakref.ref(admitted.control_variate)]
    del admitted
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_fedavg_folds_one_update_at_a_time(monkeypatch):
    """Where one is loaded from the object store, no other is in memory than the one before it."""
    clients = [f"c{i}" for i in range(6)]
    made = make_aggregator()
    made.open_round(0, clients, 0.5)
    waiting = [deliver(made, name, update(name, i / 2)) for i, name in enumerate(clients)]
    states: list[weakref.ref] = []
    in_memory: list[tuple[int, int]] = []

    def load(stored: AdmittedUpdate) -> AdmittedUpdate:
        num_deltas = sum(type(item) is WeightedUpdate for item in gc.get_objects())
        in_memory.append((sum(ref() is not None for ref in states), num_deltas))
        found = replace(stored, state=stored.state.copy())
        states.append(weakref.ref(found.state))
        return found

    monkeypatch.setattr("actors.folding.held", load)
    assert made.close_round(waiting).outcome == "aggregated"
    assert in_memory == [(0, 0), *[(1, 1)] * 5]
    assert value_of(made) == pytest.approx(1.25)


# Values that are not finite


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"averaging": "svd"}, 1e38),  # B holds all of the singular values: 1e76 over the norm of the global A
        ({"averaging": "svd"}, 3e38),
        ({"optimizer": "fedavgm", "fedavgm": {"learning_rate": 10}}, 1e38),  # moves by 1e39
        ({"optimizer": "fedavgm", "fedavgm": {"learning_rate": 10}, "rule": "median"}, 3e38),
    ],
)
def test_an_aggregate_that_is_not_finite_leaves_everything_but_trust_as_it_was(settings, value):
    unbounded = AdmissionConfig(max_norm=1e300, value_factor=None, product_factor=None)
    made = make_aggregator("step", start=random_state(9), admission=unbounded, **settings)
    before = made.state()
    far = {name: torch.full(shape, value) for name, shape in SHAPES.items()}
    made.open_round(0, ["a", "b"], 0.5)
    start = decode_tensors(before.adapter)
    last = {B0: far[B0] - start[B0]}
    evidence = [deliver(made, name, update(name, far), step_delta(name, last), scores(name, 0.1, 0.1)) for name in "ab"]
    report = made.close_round(evidence)
    assert all(row.admitted for row in report.clients)
    assert (report.outcome, report.adapter_version, [row.share for row in report.clients]) == ("skipped", 0, [0, 0])
    assert report.why.startswith("the aggregate is not finite: ")
    after = made.state()
    assert set(after.trust["step"]) == {"a", "b"}
    assert replace(after, trust=before.trust) == before
    made.open_round(1, ["a"], 0.5)  # the next round is as any other
    near = {name: tensor + 1 for name, tensor in start.items()}
    last = {B0: near[B0] - start[B0]}
    evidence = [deliver(made, "a", update("a", near, round_index=1), step_delta("a", last, round_index=1), scores("a", 0.1, 0.1))]
    assert made.close_round(evidence).outcome == "aggregated"
