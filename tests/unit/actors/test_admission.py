"""Whatever a client sends is refused with a reason where it is decoded, no actor fails, and no other client notices.

The tables of what attackers send are in `tests/malformed.py`; the checks have tests of their own in
`tests/unit/defense/admission`.
"""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import admission
from actors.admission import CheckedUpdate, UpdateCheck, admit_step_delta
from actors.aggregator import Aggregator
from actors.config import LoraConfig, ModelConfig, Recipe, TrainingConfig
from actors.messages import ClientEvidence, LoRAUpdate, Reading, RoundReport, StepDelta
from actors.model.shared import SharedModel
from actors.probe import Probe
from actors.server_data import Canary, Validation
from actors.simulation.client import SimulatedClient
from actors.state_vector import StateVector
from actors.wire import decode_tensors, encode_message
from actors.world.datasets import write_clients
from defense.admission.checks import OpenRound, Reason, Refusal
from defense.admission.products import ProductBounds
from defense.admission.settings import AdmissionConfig
from defense.levels import LEVELS
from defense.rules import PRE_AGGREGATIONS, RULES
from probe.drift import quantiles
from tests.malformed import DELTAS, LAST_STEPS, LEGAL, UPDATES, Delivery
from tests.unit.actors.builders import (
    A0,
    B0,
    LAYOUT,
    SHAPES,
    START,
    START_BYTES,
    TRAINING,
    deliver,
    filled,
    make_aggregator,
    open_round,
    rows,
    scores,
    step_delta,
    train_task,
    update,
    value_of,
    write_probe,
)

HONEST = ("b", "d")
ATTACKERS = tuple(f"{place}{i:03d}" for i in range(40) for place in "ace")
"""Sampled clients before, between and after the honest ones. Each sends once, since a second update is a duplicate."""
STRANGER = "cc"
SAMPLED = (*HONEST, *ATTACKERS)
ROUND = open_round(*SAMPLED, max_norm=10.0, reads=frozenset(["real"]))
SEEDS = range(6)
"""Most kinds of malformed messages are drawn at random."""


def delivery(client_id: str, expected: OpenRound = ROUND) -> Delivery:
    """What an honest client delivers; another one for each client, and of one direction: level spectrum excludes noise."""
    generator = torch.Generator().manual_seed(ord(client_id[0]))
    tensors = {name: torch.outer(*(torch.randn(side, generator=generator) for side in shape)) for name, shape in SHAPES.items()}
    fields = {"client_id": client_id, "round_index": 0, "base_version": 0}
    sent = LoRAUpdate(**fields, num_samples=8, loss=1.5, train_s=0.1, tensors=tensors)
    last = StepDelta(**fields, branch="real", step=2, num_samples=4, tensors={B0: tensors[B0] - START[B0]})
    return Delivery(sent, last, START, expected)


def update_check(expected: OpenRound = ROUND, **changes) -> UpdateCheck:
    layout = StateVector(SHAPES)
    return UpdateCheck(expected=expected, adapter=START, layout=layout, start=layout.pack(START), **changes)


def assert_refused(refusal: Refusal | str | None, reason: Reason | None = None) -> None:
    """Refused for a reason of the enumeration, in one short line."""
    shown = str(refusal)
    named = Reason(shown.partition(":")[0])
    assert reason is None or named is reason, shown
    assert shown.isprintable() and len(shown) < 400


# Decoded and checked


@pytest.mark.parametrize("kind", UPDATES)
def test_a_malformed_update_is_refused_for_its_reason(kind):
    check, valid = update_check(), delivery("a000").valid_update
    for seed in SEEDS:
        assert_refused(check.admit("a000", UPDATES[kind].make(valid, Random(seed)), None), UPDATES[kind].reason)


@pytest.mark.parametrize("kind", DELTAS)
def test_a_malformed_step_delta_is_refused_for_its_reason(kind):
    valid = delivery("a000").valid_last
    for seed in SEEDS:
        payload = DELTAS[kind].make(valid, Random(seed))
        assert_refused(admit_step_delta("a000", payload, ROUND, {B0: SHAPES[B0]}, ()), DELTAS[kind].reason)


@pytest.mark.parametrize("kind", LAST_STEPS)
def test_a_last_step_delta_that_is_not_the_updates_is_refused(kind):
    check = update_check(is_tied=True)
    for seed in SEEDS:
        assert_refused(check.admit("a000", *LAST_STEPS[kind](delivery("a000"), Random(seed))), Reason.UNTIED_EVIDENCE)


@pytest.mark.parametrize("kind", LEGAL)
def test_what_is_only_odd_is_admitted(kind):
    for seed in SEEDS:
        sent, last = LEGAL[kind](delivery("a000"), Random(seed))
        assert isinstance(update_check(is_tied=True).admit("a000", sent, last), CheckedUpdate)
        assert isinstance(admit_step_delta("a000", last, ROUND, {B0: SHAPES[B0]}, ()), StepDelta)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(payload=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(payload):
    check = update_check(is_tied=True)
    assert_refused(check.admit("a000", payload, payload), Reason.MALFORMED)
    assert_refused(check.admit("a000", delivery("a000").payloads[0], payload), Reason.UNTIED_EVIDENCE)
    assert_refused(admit_step_delta("a000", payload, ROUND, {B0: SHAPES[B0]}, ()), Reason.MALFORMED)


@pytest.mark.parametrize(
    ("last", "detail"),
    [
        (None, "no step delta came with the update"),
        (b"junk", "the last step delta is malformed: "),
        (step_delta("b", 1.0, branch="shadow"), "the message before the update is no real step delta"),
        (step_delta("b", 1.0, 1), "the message before the update is of step 1, not the last"),
        (step_delta("b", 0.999), f"{B0} of the last step delta differs from the submitted update"),
    ],
)
def test_what_an_untied_update_lacks_is_named_where_step_deltas_are_weighed(last, detail):
    refusal = update_check(is_tied=True).admit("b", update("b", 1.0), last)
    assert str(refusal).startswith(f"untied_evidence: {detail}")
    assert isinstance(update_check().admit("b", update("b", 1.0), last), CheckedUpdate)


def test_an_admitted_update_is_one_vector_in_order_of_name():
    tensors = {A0: torch.arange(6.0).reshape(2, 3), B0: torch.full((3, 2), -1.0)}
    found = update_check(control_shapes={B0: (3, 2)}, max_control_norm=9.0).admit(
        "b", update("b", tensors, num_samples=3, control_variate=filled(2.0, B0)), None
    )
    assert (found.admitted.client_id, found.admitted.num_samples) == ("b", 3)
    assert found.admitted.state.tolist() == [0, 1, 2, 3, 4, 5, *[-1] * 6]
    assert found.admitted.control_variate.tolist() == [2] * 6
    assert found.norm == pytest.approx(61**0.5)  # 0 + 1 + 4 + 9 + 16 + 25, and 6
    assert all(torch.equal(found.delta[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("changes", "sent", "refusal"),
    [
        ({}, step_delta("b", 4.1), "norm_exceeded: the delta's norm 10.04 is above the bound 10"),  # sqrt(6) x 4.1
        ({"max_value": 1.0}, step_delta("b", 1.5), f"norm_exceeded: a value of {B0} moved by 1.5, above the bound 1"),
        ({"max_value": 9.0, "max_shadow_value": 1.0}, step_delta("b", 1.5, branch="shadow"), "norm_exceeded: a value of"),
        ({"max_value": 1.0, "max_shadow_value": 9.0}, step_delta("b", 1.5, branch="shadow"), None),
        ({}, step_delta("b", 1.0, 1), "duplicate: real step 1 was sent twice"),
        ({}, step_delta("b", 1.0, 1, branch="shadow"), None),
        ({}, step_delta("d", 1.0), "unknown_client: client b sent a message signed 'd'"),
        ({}, step_delta("b", 1.0, 3), "bad_count: step=3 is outside 1 to 2"),
        ({}, step_delta("b", 1.0, num_samples=5), "bad_count: num_samples=5 is outside 1 to 4"),
    ],
)
def test_a_step_delta_keeps_to_the_bounds_of_its_branch_and_counts_once(changes, sent, refusal):
    found = admit_step_delta("b", sent, replace(ROUND, **changes), {B0: SHAPES[B0]}, {("b", "real", 1)})
    assert isinstance(found, StepDelta) if refusal is None else str(found).startswith(refusal)


# Bounds of the aggregator's rounds


def admits(client_id: str, sent: bytes, **settings) -> str | None:
    """The answer of an aggregator in a round at a rate of 0.5."""
    made = make_aggregator(**settings)
    made.open_round(0, [client_id], 0.5)
    return made.admit(client_id, sent)[0].reason


@pytest.mark.parametrize(
    ("value", "bounds", "refused"),
    [
        (1.0, {"max_norm": 1.0, "value_factor": None}, "the delta's norm 3.464 is above the bound 1"),
        # Two steps of AdamW at 0.5 move a value by 1.0007 at most.
        (1.0, {}, None),
        (-2.04, {}, f"a value of {A0} moved by 2.04, above the bound 2.021"),
    ],
)
def test_the_configured_bounds_are_used(value, bounds, refused):
    tensors = filled(1.0)
    tensors[A0][0, 0] = value
    answer = admits("a", update("a", tensors), admission=AdmissionConfig(**bounds))
    assert answer == (None if refused is None else f"norm_exceeded: {refused}")


DECAY = TRAINING.model_copy(update={"weight_decay": 0.1})


@pytest.mark.parametrize(
    ("start", "settings", "most"),
    [
        # From zeros 3 x 1.000679^2 x sqrt(3 x 3 x 2) = 12.7452. B = x and A = x give nine of 2 x^2.
        (0.0, {}, (12.7452 / 6) ** 0.5),
        # From ones |A| = |B| = sqrt(6): 3 (2 x 1.000679 sqrt(3) sqrt(6) + 1.000679^2 sqrt(18)) = 38.2183. B alone moves by x:
        # nine of 2 x. With A frozen there is one of the terms: 12.7366.
        (1.0, {}, 38.2183 / 6),
        (1.0, {"averaging": "ffa"}, 12.7366 / 6),
        # Decay pulls by 0.5 x 0.1 x 2 steps x (1 + 1.000679), the largest value at its farthest: a reach of 1.2007469.
        (1.0, {"training": DECAY}, 3 * (2 * 1.2007469 * 18**0.5 + 1.2007469**2 * 18**0.5) / 6),
    ],
)
def test_the_bound_on_products_follows_from_the_global_adapter_decay_and_whether_a_is_frozen(start, settings, most):
    loose = AdmissionConfig(value_factor=None, max_norm=100.0)
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    for moved, refused in ((0.999 * most, False), (1.001 * most, True)):
        tensors = filled(start + moved, B0) | filled(moved if start == 0 else start, A0)
        answer = admits("a", update("a", tensors), start=filled(start), admission=loose, **settings)
        assert (answer or "").startswith(f"norm_exceeded: the product B A of {module} moved by") == refused
    assert admits("a", update("a", 9.0), admission=loose.model_copy(update={"product_factor": None})) is None


REAL = TrainingConfig(max_length=64, learning_rate=0.01)


@pytest.fixture(scope="module")
def client(base_config, lora) -> SimulatedClient:
    return SimulatedClient(base_config, lora, REAL)


@pytest.fixture(scope="module")
def trained(client, world, tokens_of, tmp_path_factory) -> dict[float, bytes]:
    """Factor of the asked learning rate -> the encoded update of a real client's first round."""
    own = tokens_of(*map(Path, write_clients(world, tmp_path_factory.mktemp("data"), ["a"], 160, 0)["a"]))

    def train(factor: float) -> bytes:
        task = train_task(own, probe_feature=None, recipe=Recipe(learning_rate_factor=factor))
        return list(client.train(task, client.initial_adapter()))[-1]

    return {factor: train(factor) for factor in (1.0, 2.0, 3.0)}


@pytest.mark.parametrize(
    ("factor", "bounds", "refused"),
    [
        (1.0, {}, None),
        (2.0, {}, None),
        (3.0, {}, "norm_exceeded: a value of"),
        # An honest product is three times smaller than its bound and more.
        (1.0, {"value_factor": None, "product_factor": 1.0}, None),
        (2.0, {"value_factor": None, "product_factor": 1.0}, None),
        (2.0, {"value_factor": None, "product_factor": 0.3}, "norm_exceeded: the product B A of"),
    ],
)
def test_a_real_client_at_twice_the_asked_rate_is_admitted_and_one_at_three_times_is_not(
    client, trained, factor, bounds, refused
):
    start = decode_tensors(client.initial_adapter())
    made = make_aggregator(start=start, layout=client.layout(), training=REAL, admission=AdmissionConfig(**bounds))
    made.open_round(0, ["a"], 0.01)
    reason = made.admit("a", trained[factor])[0].reason
    assert reason is None if refused is None else reason.startswith(refused)


# A whole round


def evidence_on(made: Aggregator, client_id: str, level: str, expected: OpenRound) -> ClientEvidence:
    """What the round collects about an honest client; d is doubtful."""
    doubtful, signal = client_id == "d", LEVELS[level].reads
    told, read = [], []
    if signal in ("real", "shadow", "update"):
        told = scores(client_id, 0.1, 0.9 if doubtful and signal != "update" else 0.2, branch=signal, threshold=0.8)
    elif signal == "canary":
        read = [Reading(client_id=client_id, signal="canary", values={"canary_rise": 0.2 if doubtful else 0.05})]
    elif signal == "validation":
        values = {"validation_cosine": 0.1 if doubtful else 0.5, "validation_fall": 0.1, "validation_norm": 1.0}
        values |= {"task_rise": 2.0, "task_cosine": 0.15 if doubtful else 0.0}
        read = [Reading(client_id=client_id, signal="validation", values=values)]
    return deliver(made, client_id, *delivery(client_id, expected).payloads, scores=told, readings=read)


def begun(level: str, **aggregation) -> tuple[Aggregator, OpenRound]:
    """An aggregator in a round, with trust from a round before."""
    made = make_aggregator(level, defense={"skip_below": 0.0}, **aggregation)
    expected = made.open_round(0, SAMPLED, 0.5)
    made.close_round([evidence_on(made, client_id, level, expected) for client_id in HONEST])
    made.restore(replace(made.state(), adapter=START_BYTES, version=0))
    return made, made.open_round(0, SAMPLED, 0.5)


def outcome(made: Aggregator, report: RoundReport) -> tuple:
    """All that the honest clients and the next round see of this one; floats to the bit."""
    state = made.state()
    own = [repr(row) for row in report.clients if row.client_id in HONEST]
    return state, json.dumps(state.trust, sort_keys=True), report.outcome, report.why, report.mean_weight, own


def thrown(expected: OpenRound, *, pairs: bool) -> Iterator[tuple[str, object, object]]:
    """Sender, update and last step delta of everything that must be refused, each kind once."""
    senders = iter(ATTACKERS)
    for kind, sender in zip(UPDATES, senders, strict=False):
        sent = delivery(sender, expected)
        yield sender, UPDATES[kind].make(sent.valid_update, Random(0)), sent.payloads[1]
    for kind, sender in zip(LAST_STEPS if pairs else (), senders, strict=False):
        yield sender, *LAST_STEPS[kind](delivery(sender, expected), Random(0))
    yield STRANGER, *delivery(STRANGER, expected).payloads


@pytest.mark.parametrize("level", LEVELS)
def test_a_round_ends_as_if_nobody_had_sent_anything_malformed(level):
    undisturbed, expected = begun(level)
    report = undisturbed.close_round([evidence_on(undisturbed, client_id, level, expected) for client_id in HONEST])
    as_if = outcome(undisturbed, report)

    made, expected = begun(level)
    collected, why = [], {}
    for place, (sender, *sent) in enumerate(thrown(expected, pairs=LEVELS[level].reads in ("real", "shadow"))):
        if place % 30 == 10 and len(collected) < 2:
            collected.append(evidence_on(made, HONEST[len(collected)], level, expected))
        answer, admitted = made.admit(sender, *sent)
        assert (answer.admitted, admitted) == (False, None)
        assert_refused(answer.reason)
        why[sender] = answer.reason
    for client_id in HONEST:  # a second update changes nothing of the first
        sent = delivery(client_id, expected)
        other = sent.moved_to({name: tensor + 0.25 for name, tensor in sent.update.tensors.items()})
        assert_refused(made.admit(client_id, *other.payloads)[0].reason, Reason.DUPLICATE)
    report = made.close_round(collected)
    assert outcome(made, report) == as_if
    found = rows(report)
    assert set(found) == set(SAMPLED)  # no row for a stranger
    for client_id in ATTACKERS:
        row = found[client_id]
        assert (row.admitted, row.weight, row.share, row.num_samples) == (False, 0.0, 0.0, 0)
        assert row.reason == why.get(client_id, "nothing was received")


@pytest.mark.parametrize("pre", PRE_AGGREGATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_no_rule_makes_an_infinite_aggregate_of_what_is_only_odd(rule, pre):
    for kinds in ([kind] * 7 for kind in LEGAL), [list(LEGAL)[:7], list(LEGAL)[-7:]]:
        for chosen in kinds:
            made = make_aggregator(rule=rule, pre=pre, f=1)
            expected = made.open_round(0, SAMPLED, 0.5)
            clients = zip(sorted(ATTACKERS), chosen, strict=False)
            report = made.close_round(
                [deliver(made, client_id, *LEGAL[kind](delivery(client_id, expected), Random(1))) for client_id, kind in clients]
            )
            assert report.outcome == "aggregated"
            assert all(bool(torch.isfinite(tensor).all()) for tensor in decode_tensors(made.adapter()).values())


# Step deltas on the way to the probe


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Probe:
    known = {"scores": {"benign": quantiles([0.1, 0.2]), "malicious": quantiles([0.9, 1.0])}, "training": {"num_held_out": 16}}
    return Probe(write_probe(tmp_path_factory.mktemp("probe"), [-1.0, -0.4, 0.2, 0.8, 1.4, 2.0], -0.5, **known), LAYOUT)


@pytest.mark.parametrize("size", [1, 7])
def test_the_scores_of_others_are_the_same_to_the_bit(probe, size):
    honest = [
        (client_id, step_delta(client_id, value * step, step, branch=branch))
        for client_id, value in zip(HONEST, (0.3, -0.4), strict=True)
        for branch in ("shadow", "real")
        for step in (1, 2)
    ]
    probe.open_round(ROUND, START_BYTES)
    expected = probe.score_batch([sender for sender, _ in honest], *(payload for _, payload in honest))
    drift = probe.close_round().drift
    assert drift is not None

    senders = [*ATTACKERS, STRANGER]
    messages = [
        (sender, DELTAS[kind].make(delivery(sender).valid_last, Random(0))) for sender, kind in zip(senders, DELTAS, strict=False)
    ]
    for place, sent in enumerate(honest):
        messages.insert(11 * place, sent)
    messages += honest  # again
    probe.open_round(ROUND, START_BYTES)
    answers = []
    for first in range(0, len(messages), size):
        batch = messages[first:][:size]
        answers += probe.score_batch([sender for sender, _ in batch], *(payload for _, payload in batch))
    admitted = [answer for answer in answers if answer.refusal is None]
    assert [repr(answer) for answer in admitted] == [repr(answer) for answer in expected]
    for answer in answers:
        assert answer.failure is None
        if answer.refusal is not None:
            assert_refused(answer.refusal)
    closed = probe.close_round()
    assert (closed.drift, closed.num_messages) == (drift, len(messages))


@pytest.mark.parametrize("changes", [{"step": 2}, {"step": 1}, {"num_samples": 99}, {"round_index": 5}])
def test_the_step_delta_that_ties_is_the_one_that_was_scored(probe, changes):
    """Harmless step deltas for the probe, and at the end one that it refuses and that belongs to the real update."""
    made = make_aggregator("client")
    expected = made.open_round(0, ["a"], 0.5)
    probe.open_round(expected)
    sent = delivery("a", expected)
    true = encode_message(replace(sent.last, **changes))
    found = [probe.score("a", payload) for payload in (step_delta("a", -1.0, 1), step_delta("a", -1.0), true)]
    assert [score.refusal is None for score in found] == [True, True, False]
    answer, admitted = made.admit("a", sent.payloads[0], true)
    if answer.admitted:
        report = made.close_round([ClientEvidence(client_id="a", update=admitted, scores=tuple(found))])
        assert_refused(report.clients[0].reason, Reason.UNTIED_EVIDENCE)
        assert (report.outcome, value_of(made)) == ("no_quorum", 0)
    else:
        assert_refused(answer.reason, Reason.UNTIED_EVIDENCE)


# Once


class _MeanValue:
    """In place of a model: the loss is the mean value of the adapter."""

    def _loss(self, adapter) -> float:
        return float(torch.cat([tensor.reshape(-1) for tensor in adapter.values()]).mean())


class _Canary(_MeanValue, Canary):
    def _prepare(self, expected, adapter) -> None:
        """It has no rows to draw."""


class _Validation(_MeanValue, Validation): ...


class _NoModel(SharedModel):
    """Turns without a base model."""

    model = None


def count_calls(monkeypatch) -> Counter:
    """Count what decodes or checks a message, by name, in every module of the actors; and how often a payload is loaded."""
    calls: Counter = Counter()
    checks = {name for name, _ in inspect.getmembers(admission, inspect.isfunction) if name.startswith("check_")}
    places = [module for name, module in sys.modules.items() if name.startswith("actors.")]
    counted = [(place, name, name) for place in places for name in {*checks, "decode_message"} if hasattr(place, name)]
    for place, attribute, name in [*counted, (ProductBounds, "check", "check_products")]:
        monkeypatch.setattr(place, attribute, _counting(getattr(place, attribute), calls, lambda _, name=name: name))
    load = _counting(safetensors.torch.load, calls, lambda payload: payload)
    monkeypatch.setattr(safetensors.torch, "load", load)
    return calls


def _counting(function, calls: Counter, key):
    def call(*arguments):
        calls[key(arguments[0])] += 1
        return function(*arguments)

    return call


def test_an_update_is_decoded_and_checked_once_in_a_whole_round(tmp_path, monkeypatch):
    made = make_aggregator("live+canary+zeno+spectrum+consensus", admission=AdmissionConfig())
    probe, settings = Probe(write_probe(tmp_path, 1.0), LAYOUT), (ModelConfig(), LoraConfig(), "no file")
    data = [_Canary(*settings, 64, 0), _Validation(*settings, TRAINING, levels={"zeno"}, max_rows=100, seed=0)]
    for actor in data:
        actor._shared = _NoModel(*settings[:2])
    payloads = {client_id: update(client_id, value) for client_id, value in (("a", -0.3), ("b", -0.4), ("c", -0.5))}
    expected = made.open_round(0, [*payloads, "d"], 0.5)
    for actor in (probe, *data):
        actor.open_round(expected, made.adapter())

    calls, evidence = count_calls(monkeypatch), []
    for client_id, payload in {**payloads, "d": b"junk"}.items():
        _, admitted = made.admit(client_id, payload)
        score, readings = probe.score_update(admitted), [actor.measure(admitted) for actor in data]
        if admitted is None:
            assert [client_id, score, *readings] == ["d", None, None, None]
        else:
            evidence.append(ClientEvidence(client_id=client_id, update=admitted, scores=(score,), readings=tuple(readings)))
    report = made.close_round(evidence)

    assert [row.weight for row in report.clients] == [1, 1, 1, 0]
    assert [row.signals.get("canary_rise") for row in report.clients] == [*map(pytest.approx, (-0.3, -0.4, -0.5)), None]
    assert [calls.pop(payload) for payload in payloads.values()] == [1, 1, 1]
    assert calls.pop("decode_message") == 4
    names = "sender count tensors frozen control_variate finite norm values products".split()
    assert calls == {f"check_{name}": 3 for name in names}
