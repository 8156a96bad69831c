"""The aggregator without a cluster: admission, weights, commits and skips, with sums worked out by hand."""

import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.messages import ProbeScore
from actors.wire import decode_tensors, encode_tensors
from defense.config import AdmissionConfig, AggregationConfig, DefenseConfig
from tests.unit.actors.builders import A0, B0, LAYOUT, SHAPES, START_BYTES, TRAINING, UNBOUNDED, scores, step_delta, update


def aggregator(level: str = "none", clients=("a", "b"), *, min_updates: int = 1, **defense) -> Aggregator:
    config = AggregatorConfig(
        training=TRAINING, defense=DefenseConfig(level=level, **defense), admission=UNBOUNDED, min_updates=min_updates
    )
    made = Aggregator(config, LAYOUT, START_BYTES)
    made.open_round(0, list(clients), 0.5)
    return made


def value_of(made: Aggregator) -> float:
    tensors = decode_tensors(made.adapter())
    (value,) = {round(float(v), 6) for tensor in tensors.values() for v in tensor.reshape(-1)}
    return value


def rows(report):
    return {row.client_id: row for row in report.clients}


def test_plain_fedavg_weighs_by_samples():
    made = aggregator()
    made.submit("a", update("a", 1.0, num_samples=2), None, [])
    made.submit("b", update("b", 0.5, num_samples=6), None, [])
    report = made.close_round()
    assert report.outcome == "aggregated"
    assert value_of(made) == pytest.approx((2 * 1.0 + 6 * 0.5) / 8)
    assert [row.share for row in report.clients] == [0.25, 0.75]
    assert report.adapter_version == 1


def test_step_level_weights_the_aggregate():
    # a: 8 samples, none flagged: alpha .95 + 8, beta .95, w = 8.95 / 9.9. b: one of two steps flagged: 4.95 / 9.9 = 0.5.
    made = aggregator("step")
    made.submit("a", update("a", 1.0), step_delta("a", 1.0), scores("a", 0.1, 0.2))
    made.submit("b", update("b", 0.0), step_delta("b", 0.0), scores("b", 0.9, 0.2))
    report = made.close_round()
    weight_a, weight_b = 8.95 / 9.9, 0.5
    assert rows(report)["a"].weight == pytest.approx(weight_a)
    assert rows(report)["b"].weight == pytest.approx(weight_b)
    assert rows(report)["b"].malicious_ratio == 0.5
    assert value_of(made) == pytest.approx(weight_a / (weight_a + weight_b), abs=1e-6)


def test_consensus_puts_out_who_pulls_against_the_others():
    # Cosines: a and b have the others (+ and -) cancel, 0; c has both against it, -1. Then c has no say: a and b agree, 1.
    made = aggregator("consensus", ("a", "b", "c"))
    for round_index, expected in enumerate([(0.0, 0.0, -1.0), (1.0, 1.0, -1.0)]):
        if round_index:
            made.open_round(round_index, ["a", "b", "c"], 0.5)
        start = value_of(made)
        for client_id, move in (("a", 1.0), ("b", 1.0), ("c", -1.0)):
            version = {"round_index": round_index, "base_version": round_index}
            assert made.submit(client_id, update(client_id, start + move, **version), None, []).admitted
        report = made.close_round()
        assert [row.weight for row in report.clients] == [1, 1, 0]
        assert [row.agreement for row in report.clients] == pytest.approx(expected)
        assert value_of(made) == start + 1
    assert made.state().trust["consensus"]["c"] == {"cosines": pytest.approx(-1.9), "rounds": pytest.approx(1.9)}


def test_consensus_compares_only_whom_the_other_levels_let_through():
    made = aggregator("live+consensus", ("a", "b", "c"))
    for client_id, value, probability in (("a", 1.0, 0.1), ("b", 1.0, 0.2), ("c", -1.0, 0.9)):
        made.submit(client_id, update(client_id, value), None, [live_score(client_id, probability)])
    report = made.close_round()
    assert [row.weight for row in report.clients] == [1, 1, 0]
    assert [row.agreement for row in report.clients] == [pytest.approx(1), pytest.approx(1), None]
    assert set(made.state().trust["consensus"]) == {"a", "b"}


def received(values: dict[str, tuple[float, int]], *, flagged: str = "", **aggregation) -> Aggregator:
    """Client id -> value of the update and number of samples, at level live; those in `flagged` weigh nothing."""
    config = AggregatorConfig(
        training=TRAINING,
        defense=DefenseConfig(level="live"),
        admission=UNBOUNDED,
        aggregation=AggregationConfig(**aggregation),
    )
    made = Aggregator(config, LAYOUT, START_BYTES)
    made.open_round(0, list(values), 0.5)
    for client_id, (value, count) in values.items():
        score = live_score(client_id, 0.9 if client_id in flagged else 0.1)
        assert made.submit(client_id, update(client_id, value, num_samples=count), None, [score]).admitted
    return made


ONE_FLAGGED = {"a": (1.0, 6), "b": (0.5, 3), "c": (3.0, 3)}


def test_little_trust_makes_a_small_step_when_divided_by_samples():
    # c weighs nothing. Sum n w delta = 6 + 1.5 = 7.5, by sum n w = 9 or by sum n = 12.
    made = received(ONE_FLAGGED, flagged="c", normalisation="samples")
    assert [row.share for row in made.close_round().clients] == [0.5, 0.25, 0.0]
    assert value_of(made) == pytest.approx(7.5 / 12)
    made = received(ONE_FLAGGED, flagged="c")
    made.close_round()
    assert value_of(made) == pytest.approx(7.5 / 9, abs=1e-6)


def test_no_client_has_more_than_its_largest_share():
    # 6 and 3 with a share of 0.6: 4.5 and 3. (4.5 x 1 + 3 x 0.5) / 7.5 = 0.8.
    made = received(ONE_FLAGGED, flagged="c", max_share=0.6)
    report = made.close_round()
    assert [row.share for row in report.clients] == pytest.approx([0.6, 0.4, 0.0])
    assert [row.weight for row in report.clients] == [1.0, 1.0, 0.0]
    assert value_of(made) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("rule", ["fedavg", "median"])
def test_where_the_largest_share_cannot_hold_few_samples_are_no_advantage(rule):
    # Three cannot have 0.3 each, so parts are equal: the mean of 0.5, 1 and 3, and their median.
    made = received({"a": (0.5, 8), "b": (1.0, 8), "c": (3.0, 1)}, rule=rule, max_share=0.3)
    report = made.close_round()
    assert [row.share for row in report.clients] == pytest.approx([1 / 3] * 3)
    assert value_of(made) == pytest.approx({"fedavg": 1.5, "median": 1.0}[rule])


def test_the_largest_share_lowers_samples_in_a_mean_and_no_weight_in_a_median():
    # 8, 2 and 1 with a share of 0.6: 4.5, 2 and 1 of 7.5. A median does not ask for samples: 2 of 1, 2 and 3.
    values = {"a": (1.0, 8), "b": (2.0, 2), "c": (3.0, 1)}
    mean, median = (received(values, rule=rule, max_share=0.6) for rule in ("fedavg", "median"))
    assert [row.share for row in mean.close_round().clients] == pytest.approx([4.5 / 7.5, 2 / 7.5, 1 / 7.5])
    median.close_round()
    assert value_of(mean) == pytest.approx((4.5 + 4 + 3) / 7.5, abs=1e-6)
    assert value_of(median) == 2.0


def test_divided_by_samples_no_share_is_above_the_largest_even_where_clients_are_few():
    # Two clients of a share of 0.25 each; the other half of the step is missing: (1 + 0.5) / 4.
    made = received({"a": (1.0, 8), "b": (0.5, 8)}, normalisation="samples", max_share=0.25)
    assert [row.share for row in made.close_round().clients] == [0.25, 0.25]
    assert value_of(made) == pytest.approx(0.375)


def test_any_rules_step_is_shortened_by_the_samples_that_do_not_count():
    # 9 of 12 samples count. The median of 1 and 0.5 is 0.75, times 9/12.
    made = received(ONE_FLAGGED, flagged="c", rule="median", normalisation="samples")
    assert [row.share for row in made.close_round().clients] == [0.5, 0.25, 0.0]
    assert value_of(made) == pytest.approx(0.5625)


def live_score(client_id: str, probability: float, threshold: float = 0.8) -> ProbeScore:
    return ProbeScore(client_id=client_id, branch="update", step=1, probability=probability, threshold=threshold, probe_version=3)


def test_live_level_counts_an_update_wholly_or_not_at_all():
    # Needs no step delta. b is at its probe's threshold and weighs nothing.
    made = aggregator("live")
    assert made.submit("a", update("a", 1.0), None, [live_score("a", 0.7)]).admitted
    assert made.submit("b", update("b", 3.0), None, [live_score("b", 0.6, threshold=0.6)]).admitted
    report = made.close_round()
    assert {name: row.weight for name, row in rows(report).items()} == {"a": 1.0, "b": 0.0}
    assert {name: row.malicious_ratio for name, row in rows(report).items()} == {"a": 0.0, "b": 1.0}
    assert {name: row.flagged for name, row in rows(report).items()} == {"a": False, "b": True}
    assert {row.probe_version for row in report.clients} == {3}
    assert value_of(made) == 1.0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([ProbeScore(client_id="a", failure="probe died")], "no_evidence"),
        ([ProbeScore(client_id="a", refusal="norm_exceeded: 9")], "norm_exceeded"),
        ([], None),
    ],
)
def test_live_level_gives_no_weight_without_a_score(given, reason):
    made = aggregator("live")
    made.submit("a", update("a", 1.0), None, given)
    made.submit("b", update("b", 0.5), None, [live_score("b", 0.1)])
    row = rows(made.close_round())["a"]
    assert row.weight == 0
    assert reason is None or reason in row.reason
    assert value_of(made) == 0.5


def test_the_probes_threshold_decides_at_client_level():
    # s = 0.25 lies in the middle below 0.5, the threshold that came with the scores: w = 1 - 1/4.
    made = aggregator("client", clients=["a"])
    given = [
        ProbeScore(client_id="a", branch="real", step=step, probability=0.25, threshold=0.5, probe_version=1) for step in (1, 2)
    ]
    made.submit("a", update("a", 1.0), step_delta("a", 1.0), given)
    assert rows(made.close_round())["a"].weight == pytest.approx(0.75)


def test_trust_lasts_over_rounds():
    # Round 2 of a, nothing flagged: alpha .95 * 8.95 + 8 = 16.5025, beta .95 * .95 = .9025.
    made = aggregator("step", clients=["a"])
    for round_index in range(2):
        value = float(round_index + 1)
        sent = {"round_index": round_index, "base_version": round_index}
        made.submit("a", update("a", value, **sent), step_delta("a", 1.0, **sent), scores("a", 0.1, 0.1))
        report = made.close_round()
        made.open_round(round_index + 1, ["a"], 0.5)
    assert report.clients[0].weight == pytest.approx(16.5025 / (16.5025 + 0.9025))


def test_dominated_rounds_are_skipped_but_trust_is_updated():
    made = aggregator("shadow")
    for client in "ab":
        made.submit(client, update(client, 1.0), step_delta(client, 1.0), scores(client, 0.9, 0.9, branch="shadow"))
    report = made.close_round()
    assert report.outcome == "skipped"
    assert "below defense.skip_below=0.2" in report.why
    assert value_of(made) == 0
    assert report.adapter_version == 0
    assert all(row.round_outcome == "skipped" and row.share == 0 and row.admitted for row in report.clients)


def test_skipped_rounds_update_trust_and_missing_quorums_do_not():
    def weight_after(min_updates: int) -> float:
        made = aggregator("step", clients=["a"], min_updates=min_updates, skip_below=1.0)
        made.submit("a", update("a", 1.0), step_delta("a", 1.0), scores("a", 0.1, 0.1))
        made.close_round()
        made.open_round(1, ["a"], 0.5)
        made.submit("a", update("a", 1.0, round_index=1), step_delta("a", 1.0, round_index=1), scores("a", 0.1, 0.1))
        return made.close_round().clients[0].weight

    assert weight_after(min_updates=1) == pytest.approx(16.5025 / (16.5025 + 0.9025))
    assert weight_after(min_updates=2) == pytest.approx(8.95 / 9.9)


def test_too_few_updates_are_no_quorum():
    made = aggregator(min_updates=2)
    made.submit("a", update("a", 1.0), None, [])
    made.drop("b", "late")
    report = made.close_round()
    assert report.outcome == "no_quorum"
    assert "clients.min_updates=2" in report.why
    assert value_of(made) == 0
    assert rows(report)["b"].reason == "late"


def test_a_client_without_evidence_weighs_nothing_even_with_a_minimum():
    made = aggregator("shadow", min_weight=0.5)
    failed = [*scores("a", 0.1, branch="shadow"), ProbeScore(client_id="a", failure="not scored in time")]
    made.submit("a", update("a", 2.0), step_delta("a", 2.0), failed)
    made.submit("b", update("b", 1.0), step_delta("b", 1.0), scores("b", 0.1, 0.1, branch="shadow"))
    report = made.close_round()
    assert rows(report)["a"].weight == 0
    assert "no_evidence" in rows(report)["a"].reason
    assert "not scored in time" in rows(report)["a"].reason
    assert value_of(made) == 1.0


def test_min_weight_lifts_valid_evidence_after_the_gate():
    made = aggregator("shadow", min_weight=0.25)
    made.submit("a", update("a", 1.0), step_delta("a", 1.0), scores("a", 0.9, 0.9, branch="shadow"))
    made.submit("b", update("b", 0.0), step_delta("b", 0.0), scores("b", 0.1, 0.1, branch="shadow"))
    report = made.close_round()
    assert rows(report)["a"].weight == 0.25
    assert report.mean_weight == 0.5
    assert value_of(made) == pytest.approx(0.2)


def test_a_withheld_step_counts_as_flagged():
    made = aggregator("shadow", clients=["a"])
    made.submit("a", update("a", 1.0), step_delta("a", 1.0), scores("a", 0.1, branch="shadow"))
    row = made.close_round().clients[0]
    assert row.malicious_ratio == 0.5
    assert row.last_step_probability == 1.0
    assert row.weight == pytest.approx(0.5**7)


def test_scores_of_the_other_branch_are_no_evidence():
    made = aggregator("shadow", clients=["a"])
    made.submit("a", update("a", 1.0), step_delta("a", 1.0), scores("a", 0.1, 0.1, branch="real"))
    row = made.close_round().clients[0]
    assert row.weight == 0
    assert row.num_steps_scored == 0


BAD = {
    "malformed": (b"junk", None),
    "unknown_client": (update("z", 1.0), None),
    "wrong_round": (update("a", 1.0, round_index=1), None),
    "wrong_version": (update("a", 1.0, base_version=3), None),
    "bad_count": (update("a", 1.0, num_samples=9), None),
    "wrong_keys": (update("a", 1.0, tensors={B0: torch.ones(3, 2)}), None),
    "wrong_shape": (update("a", 1.0, tensors={A0: torch.ones(2, 3), B0: torch.ones(2, 3)}), None),
    "wrong_dtype": (update("a", 1.0, tensors={A0: torch.ones(2, 3), B0: torch.ones(3, 2).double()}), None),
    "not_finite": (update("a", float("nan")), None),
    "norm_exceeded": (update("a", 1e6), None),
    "untied_evidence": (update("a", 1.0), None),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_updates_are_refused_with_a_reason_and_change_nothing(reason):
    made, undisturbed = (aggregator("step") for _ in range(2))
    admission = made.submit("a", *BAD[reason], scores("a", 0.1, 0.1))
    assert not admission.admitted
    assert admission.reason.startswith(reason)
    for each in (made, undisturbed):
        each.submit("b", update("b", 0.5), step_delta("b", 0.5), scores("b", 0.1, 0.1))
    report = made.close_round()
    undisturbed.close_round()
    assert made.adapter() == undisturbed.adapter()
    assert rows(report)["a"].reason.startswith(reason)
    assert rows(report)["a"].weight == 0


@pytest.mark.parametrize(
    ("last_delta", "detail"),
    [
        (None, "no step delta came"),
        (b"junk", "malformed"),
        (step_delta("a", 1.0, branch="shadow"), "no real step delta"),
        (step_delta("a", 0.999), "differs from the submitted update"),
        (step_delta("a", 1.0, tensors={"other": torch.ones(1)}), "differs from the submitted update"),
    ],
)
def test_evidence_must_be_tied_to_the_update(last_delta, detail):
    admission = aggregator("shadow").submit("a", update("a", 1.0), last_delta, scores("a", 0.1, 0.1, branch="shadow"))
    assert not admission.admitted
    assert detail in admission.reason


def test_a_second_update_of_a_client_is_refused_and_the_first_counts():
    made = aggregator(clients=["a"])
    made.submit("a", update("a", 1.0), None, [])
    assert made.submit("a", update("a", 3.0), None, []).reason.startswith("duplicate")
    report = made.close_round()
    assert report.clients[0].admitted
    assert value_of(made) == 1.0


def test_clients_are_submitted_in_order_of_id():
    made = aggregator()
    made.submit("b", update("b", 1.0), None, [])
    with pytest.raises(RuntimeError, match="submit in order of client id"):
        made.submit("a", update("a", 1.0), None, [])


def test_clients_that_sent_nothing_are_recorded():
    made = aggregator()
    made.submit("a", update("a", 1.0), None, [])
    assert rows(made.close_round())["b"].reason == "nothing was received"


def test_calls_outside_a_round_are_refused():
    made = aggregator()
    made.close_round()
    for call in (made.close_round, lambda: made.submit("a", update("a", 1.0), None, []), lambda: made.drop("a", "x")):
        with pytest.raises(RuntimeError, match="no round is open"):
            call()


def test_the_report_says_how_many_bytes_came():
    made = aggregator(clients=["a", "b", "c", "d", "e"])
    made.submit("a", update("a", 1.0, train_s=1 / 3), None, [])
    made.submit("b", update("b", 1.0, train_s=0.5, num_samples=99), None, [])
    made.submit("c", b"junk", None, [])
    made.submit("d", 7, None, [])
    made.drop("e", "late")
    report = made.close_round()
    whole = 4 * sum(height * width for height, width in SHAPES.values())  # float32; the header does not count
    assert {row.client_id: row.num_bytes for row in report.clients} == {"a": whole, "b": whole, "c": 4, "d": 0, "e": 0}
    assert rows(report)["b"].reason.startswith("bad_count")
    assert report.aggregate_s > 0


def test_seconds_of_a_round_are_those_of_its_updates_and_of_its_end(monkeypatch):
    made = aggregator(clients=["a", "b"])
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 20.5])
    monkeypatch.setattr("actors.aggregator.time.perf_counter", lambda: next(ticks))
    made.submit("a", update("a", 1.0), None, [])
    made.submit("b", b"junk", None, [])
    report = made.close_round()
    assert (report.submit_s, report.aggregate_s) == (3.0, 0.5)


def test_identical_updates_return_themselves_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in SHAPES.items()}
    clients = [f"c{i}" for i in range(5)]
    made = aggregator(clients=clients)
    for i, client in enumerate(clients):
        made.submit(client, update(client, 0, tensors=state, num_samples=i + 1), None, [])
    made.close_round()
    assert all(torch.equal(tensor, state[name]) for name, tensor in decode_tensors(made.adapter()).items())


def test_the_configured_norm_bound_is_used():
    config = AggregatorConfig(
        training=TRAINING, defense=DefenseConfig(level="none"), admission=AdmissionConfig(max_norm=1.0, value_factor=None)
    )
    made = Aggregator(config, LAYOUT, START_BYTES)
    made.open_round(0, ["a"], 0.5)
    assert "above the bound 1" in made.submit("a", update("a", 1.0), None, []).reason


def test_a_value_that_no_training_could_have_moved_so_far_is_refused():
    made = Aggregator(AggregatorConfig(training=TRAINING, defense=DefenseConfig(level="none")), LAYOUT, START_BYTES)
    made.open_round(0, ["a", "b"], 0.5)  # two steps of AdamW at 0.5 move a value by 1.0007 at most
    assert made.submit("a", update("a", 1.0), None, []).admitted
    tensors = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    tensors[A0][0, 0] = -2.04
    refused = made.submit("b", update("b", 0.0, tensors=tensors), None, [])
    assert refused.reason.startswith(f"norm_exceeded: a value of {A0} moved by 2.04, above the bound 2.02")


def bounded(start=START_BYTES, training=TRAINING, **aggregation) -> Aggregator:
    config = AggregatorConfig(
        training=training,
        defense=DefenseConfig(level="none"),
        aggregation=AggregationConfig(**aggregation),
        admission=AdmissionConfig(value_factor=None),
    )
    made = Aggregator(config, LAYOUT, start)
    made.open_round(0, ["a", "b"], 0.5)
    return made


def test_factors_that_conspire_to_move_their_product_too_far_are_refused():
    # From zeros 3 x 1.000679^2 x sqrt(3 x 3 x 2) = 12.7452. Values of 1.4 give nine of 2 x 1.96: 11.76, those of 1.5 give 13.5.
    made = bounded()
    assert made.submit("a", update("a", 1.4), None, []).admitted
    refused = made.submit("b", update("b", 1.5), None, [])
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    assert refused.reason == f"norm_exceeded: the product B A of {module} moved by 13.5, above the bound 12.75"


def test_the_bound_on_products_follows_from_the_global_adapter_and_whether_a_is_frozen():
    # |A| = |B| = sqrt(6). 3 (2 x 1.000679 sqrt(3) sqrt(6) + 1.000679^2 sqrt(18)) = 38.2183; with A frozen only one of the terms.
    start = encode_tensors({name: torch.ones(shape) for name, shape in SHAPES.items()})
    for averaging, expected in (("factors", 38.2183), ("ffa", 12.7366)):
        found = bounded(start, averaging=averaging).open_round(0, ["a"], 0.5).max_products
        assert found == {A0: pytest.approx(expected, rel=1e-5)}


def test_weight_decay_widens_the_bound_on_products():
    # 0.5 x 0.1 x 2 steps x (1 + 1.000679), the largest value at its farthest: 0.2000679 more than 1.000679.
    start = encode_tensors({name: torch.ones(shape) for name, shape in SHAPES.items()})
    made = bounded(start, TRAINING.model_copy(update={"weight_decay": 0.1}))
    reach = 1.2007469
    expected = 3 * (2 * reach * 18**0.5 + reach**2 * 18**0.5)
    assert made.open_round(0, ["a"], 0.5).max_products == {A0: pytest.approx(expected, rel=1e-5)}


def test_the_bound_on_products_can_be_left_out():
    assert aggregator().open_round(0, ["a"], 0.5).max_products is None
