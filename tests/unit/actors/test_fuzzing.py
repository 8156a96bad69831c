"""Fuzzing of admission: whatever a client sends is refused with a reason, no actor crashes, no other client notices."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any, get_args

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import fixture, mark, raises

from actors.aggregator import Aggregator, AggregatorConfig
from actors.errors import WireError
from actors.messages import Admission, CanaryReading, LoRAUpdate, ProbeScore, RoundReport, StepDelta, ValidationReading
from actors.probe import Probe
from actors.wire import decode_message, decode_tensors, encode_message
from defense.admission import OpenRound, Reason, Refusal
from defense.config import AggregationConfig, DefenseConfig, PreName, RuleName
from defense.levels import READS
from probe.artefact import LoraProbe, save_probe
from probe.classifiers.linear import LinearProbe
from probe.drift import quantiles
from probe.meta import ProbeMeta
from tests.malformed import (
    DELTAS,
    LAST_STEPS,
    LEGAL,
    UPDATES,
    Delivery,
    Valid,
    pack,
    shape_without_strides,
    unpack,
    with_fields,
    with_metadata,
)
from tests.unit.actors.builders import B0, LAYOUT, SHAPES, START, START_BYTES, TRAINING, UNBOUNDED, scores, step_delta, update

HONEST = ("b", "d")
MOST_THROWS = 6
ATTACKERS = tuple(f"{place}{i}" for place in "ace" for i in range(MOST_THROWS))
"""Sampled clients before, between and after the honest ones. Each throws once, since a second throw is a duplicate."""
STRANGERS = ("0", "cc", "z")
SAMPLED = (*HONEST, *ATTACKERS)
WEIGH_STEPS = ("step", "client", "shadow")
SEEDS = st.integers(0, 2**32 - 1)

few = settings(derandomize=True, deadline=None, max_examples=10)
many = settings(derandomize=True, deadline=None, max_examples=150)


def delivery(client_id: str, expected: OpenRound) -> Delivery:
    """What an honest client hands in; another one for each client, and each in one direction: level spectrum puts noise out."""
    generator = torch.Generator().manual_seed(ord(client_id[0]))
    tensors = {name: torch.outer(*(torch.randn(side, generator=generator) for side in shape)) for name, shape in SHAPES.items()}
    fields = {"client_id": client_id, "round_index": 0, "base_version": 0}
    sent = LoRAUpdate(**fields, num_samples=8, loss=1.5, train_s=0.1, tensors=tensors)
    last = StepDelta(**fields, branch="real", step=2, num_samples=4, tensors={B0: tensors[B0] - START[B0]})
    return Delivery(sent, last, START, expected)


def good_scores(client_id: str, level: str) -> list[ProbeScore]:
    if level == "live":
        return [ProbeScore(client_id=client_id, branch="update", step=1, probability=0.3, threshold=0.8, probe_version=1)]
    if level == "canary":
        return [CanaryReading(client_id=client_id, rise=0.2 if client_id == "d" else 0.05)]
    if READS[level] == "validation":
        return [ValidationReading(client_id=client_id, cosine=0.1 if client_id == "d" else 0.5, fall=0.1, norm=1.0)]
    return scores(client_id, 0.1, 0.9 if client_id == "d" else 0.2, branch=READS[level] or "real")


def assert_refused(answer: str | None, reason: Reason | None = None) -> None:
    """Refused for a reason of the enumeration, told in one short line."""
    assert answer is not None
    told = Reason(answer.partition(":")[0])
    assert reason is None or told is reason
    assert answer.isprintable() and len(answer) < 400


# Updates


class Server:
    """An aggregator in an open round, with trust from a round before."""

    def __init__(self, level: str = "step", **aggregation: Any) -> None:
        defense, rule = DefenseConfig(level=level, skip_below=0.0), AggregationConfig(**aggregation)
        config = AggregatorConfig(training=TRAINING, defense=defense, aggregation=rule, admission=UNBOUNDED)
        self.level, self.aggregator = level, Aggregator(config, LAYOUT, START_BYTES)
        self.open()
        for client_id in HONEST:
            self.submit_valid(client_id)
        self.aggregator.close_round()
        self.aggregator.restore(replace(self.aggregator.state(), adapter=START_BYTES, version=0))
        self.open()

    def open(self) -> None:
        self.expected = self.aggregator.open_round(0, SAMPLED, 0.5)

    def delivery(self, client_id: str) -> Delivery:
        return delivery(client_id, self.expected)

    def submit(self, client_id: str, sent: Any, last: Any) -> Admission:
        return self.aggregator.submit(client_id, sent, last, good_scores(client_id, self.level))

    def submit_valid(self, client_id: str) -> Admission:
        return self.submit(client_id, *self.delivery(client_id).payloads)

    def outcome(self, report: RoundReport) -> tuple:
        """All that the honest clients and the next round see of this one; floats to the bit."""
        state = self.aggregator.state()
        rows = [repr(row) for row in report.clients if row.client_id in HONEST]
        return state, json.dumps(state.trust, sort_keys=True), report.outcome, report.why, report.mean_weight, rows


@cache
def undisturbed(level: str) -> tuple:
    server = Server(level)
    for client_id in HONEST:
        assert server.submit_valid(client_id).admitted
    return server.outcome(server.aggregator.close_round())


@mark.parametrize("kind", UPDATES)
@few
@given(seed=SEEDS)
def test_a_malformed_update_is_refused_for_its_reason(kind, seed):
    server = Server()
    sent = server.delivery("a0")
    answer = server.submit("a0", UPDATES[kind].make(sent.valid_update, Random(seed)), sent.payloads[1])
    assert not answer.admitted
    assert_refused(answer.reason, UPDATES[kind].reason)
    assert server.submit_valid("b").admitted


@mark.parametrize("kind", LAST_STEPS)
@few
@given(seed=SEEDS, level=st.sampled_from(WEIGH_STEPS))
def test_a_step_delta_that_is_not_the_updates_is_refused(kind, seed, level):
    server = Server(level)
    answer = server.submit("a0", *LAST_STEPS[kind](server.delivery("a0"), Random(seed)))
    assert not answer.admitted
    assert_refused(answer.reason, Reason.UNTIED_EVIDENCE)
    assert server.submit_valid("b").admitted


@many
@given(sent=st.binary(max_size=300), last=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(sent, last):
    server = Server()
    assert_refused(server.submit("a0", sent, last).reason, Reason.MALFORMED)
    assert_refused(server.submit("a1", server.delivery("a1").payloads[0], last).reason, Reason.UNTIED_EVIDENCE)


def throws(level: str) -> st.SearchStrategy:
    """(moment, what, argument, seed): moment 0 is before the honest clients, 1 between and 2 after them."""
    kinds = [
        st.tuples(st.just("update"), st.sampled_from(sorted(UPDATES))),
        st.tuples(st.just("bytes"), st.binary(max_size=100)),
        st.tuples(st.just("stranger"), st.sampled_from([None, *sorted(UPDATES)])),
        st.tuples(st.just("again"), st.sampled_from([None, *sorted(UPDATES)])),
    ]
    if level in WEIGH_STEPS:
        kinds.append(st.tuples(st.just("pair"), st.sampled_from(sorted(LAST_STEPS))))
    return st.lists(st.tuples(st.integers(0, 2), st.one_of(kinds), SEEDS), max_size=MOST_THROWS)


def throw(server: Server, index: int, moment: int, what: str, argument: Any, seed: int) -> list[Admission]:
    """Submit what must be refused, from whoever has its turn at the moment; the answers in order."""
    if what == "again" and moment > 0:
        sender = HONEST[moment - 1]
    else:
        sender = STRANGERS[moment] if what == "stranger" else f"{'ace'[moment]}{index}"
    sent = server.delivery(sender)
    first = [server.submit(sender, b"", None)] if what == "again" and moment == 0 else []
    if what == "pair":
        return [server.submit(sender, *LAST_STEPS[argument](sent, Random(seed)))]
    if what == "bytes":
        return [server.submit(sender, argument, sent.payloads[1])]
    payload = UPDATES[argument].make(sent.valid_update, Random(seed)) if argument is not None else sent.payloads[0]
    return [*first, server.submit(sender, payload, sent.payloads[1])]


@mark.parametrize("level", READS)
@settings(many, max_examples=100)
@given(data=st.data())
def test_a_round_ends_as_if_nobody_had_thrown_anything(level, data):
    server, answers = Server(level), []
    thrown = data.draw(throws(level))
    for moment in range(3):
        if moment > 0:
            assert server.submit_valid(HONEST[moment - 1]).admitted
        for index, (at, what, seed) in enumerate(thrown):
            if at == moment:
                answers += throw(server, index, at, *what, seed)
    report = server.aggregator.close_round()
    for answer in answers:
        assert not answer.admitted
        assert_refused(answer.reason)
    assert_nothing_of(report, answers)
    assert server.outcome(report) == undisturbed(level)


def assert_nothing_of(report: RoundReport, answers: Sequence[Admission]) -> None:
    """Attackers have a row that says why, and weigh nothing; strangers have none."""
    rows = {row.client_id: row for row in report.clients}
    assert set(rows) == set(SAMPLED)
    told = {answer.client_id: answer.reason for answer in reversed(answers)}
    for client_id in ATTACKERS:
        row = rows[client_id]
        assert (row.admitted, row.weight, row.share, row.num_samples) == (False, 0.0, 0.0, 0)
        assert row.reason == told.get(client_id, "nothing was received")


@few
@given(kind=st.sampled_from(sorted(UPDATES)), seed=SEEDS)
def test_a_refused_client_gets_no_second_try_and_its_first_reason_stands(kind, seed):
    server = Server()
    first = server.submit("a0", UPDATES[kind].make(server.delivery("a0").valid_update, Random(seed)), None)
    assert_refused(server.submit_valid("a0").reason, Reason.DUPLICATE)
    (row,) = [row for row in server.aggregator.close_round().clients if row.client_id == "a0"]
    assert row.reason == first.reason


@mark.parametrize("level", READS)
def test_a_second_update_changes_nothing_of_the_first(level):
    server = Server(level)
    for client_id in HONEST:
        assert server.submit_valid(client_id).admitted
        sent = server.delivery(client_id)
        other = sent.moved_to({name: tensor + 0.25 for name, tensor in sent.update.tensors.items()})
        assert_refused(server.submit(client_id, *other.payloads).reason, Reason.DUPLICATE)
    assert server.outcome(server.aggregator.close_round()) == undisturbed(level)


@mark.parametrize("kind", LEGAL)
@few
@given(seed=SEEDS, level=st.sampled_from(sorted(READS)))
def test_what_is_only_odd_is_admitted_and_the_aggregate_stays_finite(kind, seed, level):
    server = Server(level)
    assert server.submit("a0", *LEGAL[kind](server.delivery("a0"), Random(seed))).reason is None
    report = server.aggregator.close_round()
    assert report.outcome == "aggregated"
    assert is_finite(server.aggregator)


@mark.parametrize("pre", get_args(PreName))
@mark.parametrize("rule", get_args(RuleName))
@few
@given(kinds=st.lists(st.sampled_from(sorted(LEGAL)), min_size=7, max_size=7), alike=st.booleans(), seed=SEEDS)
def test_no_rule_makes_an_infinite_aggregate_of_what_is_only_odd(rule, pre, kinds, alike, seed):
    server = Server("none", rule=rule, pre=pre, f=1)
    for client_id, kind in zip(sorted(ATTACKERS), kinds[:1] * 7 if alike else kinds, strict=False):
        assert server.submit(client_id, *LEGAL[kind](server.delivery(client_id), Random(seed))).admitted
    assert server.aggregator.close_round().outcome == "aggregated"
    assert is_finite(server.aggregator)


def is_finite(aggregator: Aggregator) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in decode_tensors(aggregator.adapter()).values())


# Step deltas

META = ProbeMeta(
    classifier="linear",
    feature="first_layer_b",
    shapes={B0: SHAPES[B0]},
    layers={B0: 0},
    model_fingerprint="m",
    lora_fingerprint="l",
    threshold=0.8,
    recipe={"learning_rate": 0.5},
    scores={"benign": quantiles([0.1, 0.2]), "malicious": quantiles([0.9, 1.0])},
    training={"num_held_out": 16},
)
ROUND = OpenRound(
    round_index=0,
    base_version=0,
    client_ids=frozenset(SAMPLED),
    num_steps=2,
    batch_size=4,
    max_norm=10.0,
    reads=frozenset(["real"]),
)
Sent = tuple[str, Any]
"""Who sent a step delta, and the payload."""


@fixture(scope="module")
def probe(tmp_path_factory) -> Probe:
    folder = tmp_path_factory.mktemp("probe")
    save_probe(folder, LoraProbe(META, LinearProbe(weight=np.linspace(-1, 2, 6, dtype=np.float32), bias=-0.5)))
    return Probe(str(folder), LAYOUT)


def reopened(probe: Probe) -> Probe:
    probe.open_round(ROUND, START_BYTES)
    return probe


def honest_deltas() -> list[Sent]:
    return [
        (client_id, step_delta(client_id, value * step, step, branch=branch))
        for client_id, value in zip(HONEST, (0.3, -0.4), strict=True)
        for branch in ("shadow", "real")
        for step in (1, 2)
    ]


@mark.parametrize("kind", DELTAS)
@few
@given(seed=SEEDS)
def test_a_malformed_step_delta_is_refused_for_its_reason(probe, kind, seed):
    reopened(probe)
    answer = probe.score("a0", DELTAS[kind].make(delivery("a0", ROUND).valid_last, Random(seed)))
    assert (answer.probability, answer.failure) == (None, None)
    assert_refused(answer.refusal, DELTAS[kind].reason)
    assert probe.score("a0", delivery("a0", ROUND).payloads[1]).probability is not None


@mark.parametrize("kind", [name for name, kind in UPDATES.items() if kind.reason is not Reason.BAD_COUNT])
@few
@given(seed=SEEDS)
def test_a_malformed_update_gets_no_score(probe, kind, seed):
    # The number of samples is the aggregator's to check: it changes no score.
    reopened(probe)
    answer = probe.score_update("a0", UPDATES[kind].make(delivery("a0", ROUND).valid_update, Random(seed)))
    assert (answer.probability, answer.failure) == (None, None)
    assert_refused(answer.refusal, UPDATES[kind].reason)
    assert probe.score_update("a0", delivery("a0", ROUND).payloads[0]).probability is not None


@many
@given(payload=st.binary(max_size=300))
def test_arbitrary_bytes_get_no_score(probe, payload):
    reopened(probe)
    assert_refused(probe.score("a0", payload).refusal, Reason.MALFORMED)
    assert_refused(probe.score_update("a0", payload).refusal, Reason.MALFORMED)


@st.composite
def bad_deltas(draw) -> tuple[int, Sent]:
    """A place in the honest clients' stream, and what somebody else puts there."""
    place, kind, rng = draw(st.integers(0, 8)), draw(st.sampled_from(sorted(DELTAS))), Random(draw(SEEDS))
    sender = draw(st.sampled_from([*ATTACKERS, *STRANGERS]))
    return place, (sender, DELTAS[kind].make(delivery(sender, ROUND).valid_last, rng))


@many
@given(bad=st.lists(bad_deltas(), min_size=1, max_size=8), size=st.integers(1, 8))
def test_the_scores_of_others_are_the_same_to_the_bit(probe, bad, size):
    expected = reopened(probe).score_batch([client_id for client_id, _ in honest_deltas()], *(p for _, p in honest_deltas()))
    drift = probe.close_round().drift
    stream = [[*(sent for at, sent in bad if at == place), honest] for place, honest in enumerate(honest_deltas())]
    messages = [message for group in stream for message in group] + [sent for at, sent in bad if at == 8]
    reopened(probe)
    answers = [
        answer
        for begin in range(0, len(messages), size)
        for answer in probe.score_batch([who for who, _ in messages[begin:][:size]], *(p for _, p in messages[begin:][:size]))
    ]
    assert [repr(answer) for answer in answers if answer.client_id in HONEST] == [repr(score) for score in expected]
    for answer in answers:
        if answer.client_id not in HONEST:
            assert_refused(answer.refusal)
    assert drift is not None
    assert probe.close_round().drift == drift


def test_a_step_delta_sent_again_is_refused(probe):
    reopened(probe)
    for client_id, payload in honest_deltas():
        assert probe.score(client_id, payload).probability is not None
        assert_refused(probe.score(client_id, payload).refusal, Reason.DUPLICATE)


@mark.parametrize("kind", LEGAL)
@few
@given(seed=SEEDS)
def test_what_is_only_odd_gets_a_probability(probe, kind, seed):
    reopened(probe)
    sent, last = LEGAL[kind](delivery("a0", ROUND), Random(seed))
    for answer in (probe.score("a0", last), probe.score_update("a0", sent)):
        assert 0 <= answer.probability <= 1


# What fuzzing has found


def test_a_shape_whose_strides_do_not_fit_64_bits_is_refused():
    # torch raises RuntimeError for it, which took the scores of a whole batch and the aggregator's call with it.
    valid = delivery("a0", ROUND).valid_update
    for seed in range(9):
        payload = shape_without_strides(valid, Random(seed))
        with raises(WireError, match="not a safetensors message"):
            decode_message(payload, LoRAUpdate)


def test_a_key_that_stands_twice_is_refused():
    # Python keeps the last of two equal keys, and so does safetensors for a tensor; others keep the first.
    header, data = unpack(update("a", 1.0))
    text = json.dumps(header)[:-1] + f", {json.dumps(B0)}: {json.dumps(header[B0])}}}"
    with raises(WireError, match="the header is not JSON: a key stands in it twice"):
        decode_message(pack(text.encode(), data), LoRAUpdate)
    fields = header["__metadata__"]["LoRAUpdate"][:-1] + ', "num_samples": 1}'
    with raises(WireError, match="fields are not JSON: a key stands in it twice"):
        decode_message(with_metadata(Valid(delivery("a", ROUND).update, ROUND), {"LoRAUpdate": fields}), LoRAUpdate)


@mark.parametrize("name", ["loss", "train_s"])
@mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_figure_that_is_not_finite_is_refused_by_name(name, value):
    payload = with_fields(delivery("a", ROUND).valid_update, **{name: value})
    with raises(WireError, match=f"field {name} is not finite"):
        decode_message(payload, LoRAUpdate)


def test_a_whole_number_arrives_as_a_float_that_a_table_takes():
    # pyarrow writes no integer above 2^53 into a column of floats: such a loss ended the run of everybody.
    message = decode_message(with_fields(delivery("a", ROUND).valid_update, loss=2**53 + 1, train_s=2**63 - 1), LoRAUpdate)
    assert (type(message.loss), message.loss) == (float, 2.0**53)
    assert (type(message.train_s), message.train_s) == (float, 2.0**63)


def test_a_refusal_is_one_short_printable_line():
    shown = str(Refusal(Reason.MALFORMED, "\x1b[2J\nround 1: all is well\ud800" + "x" * 10**6))
    assert shown.startswith("malformed: ?[2J?round 1: all is well?xxx")
    assert len(shown) == len("malformed: ") + 300


@mark.parametrize("changes", [{"step": 2}, {"step": 1}, {"num_samples": 99}, {"round_index": 5}])
def test_the_step_delta_that_ties_is_the_one_that_was_scored(probe, changes):
    """Harmless step deltas for the probe, and at the end one that it refuses and that belongs to the real update."""
    server = Server("client")
    probe.open_round(replace(server.expected, reads=frozenset(["real"])))
    harmless = [probe.score("a0", step_delta("a0", -1.0, step)) for step in (1, 2)]
    sent = server.delivery("a0")
    true = encode_message(replace(sent.last, **changes))
    given_scores = [*harmless, probe.score("a0", true)]
    assert given_scores[-1].refusal is not None
    assert_refused(server.aggregator.submit("a0", sent.payloads[0], true, given_scores).reason, Reason.UNTIED_EVIDENCE)
