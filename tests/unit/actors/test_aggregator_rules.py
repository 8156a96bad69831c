"""The aggregator with other rules than FedAvg: what reaches them, what is told, and what is remembered."""

import pytest

from actors.aggregator import Aggregator, AggregatorConfig
from actors.wire import decode_tensors
from defense.config import AdmissionConfig, AggregationConfig, DefenseConfig
from tests.unit.actors.builders import LAYOUT, START_BYTES, TRAINING, scores, step_delta, update


def aggregator(aggregation: AggregationConfig, level: str = "none", **settings) -> Aggregator:
    config = AggregatorConfig(
        training=TRAINING,
        defense=DefenseConfig(level=level),
        aggregation=aggregation,
        admission=AdmissionConfig(max_norm=1e9, value_factor=None, product_factor=None),
        **settings,
    )
    return Aggregator(config, LAYOUT, START_BYTES)


def run_round(made: Aggregator, values: dict[str, float], round_index: int = 0, version: int = 0):
    made.open_round(round_index, list(values), 0.5)
    for client_id, value in values.items():
        made.submit(client_id, update(client_id, value, round_index=round_index, base_version=version), None, [])
    return made.close_round()


def value_of(made: Aggregator) -> float:
    tensors = decode_tensors(made.adapter())
    (value,) = {round(float(v), 6) for tensor in tensors.values() for v in tensor.reshape(-1)}
    return value


def test_the_configured_rule_aggregates_deltas():
    made = aggregator(AggregationConfig(rule="median"))
    run_round(made, {"a": 1.0, "b": 2.0, "c": 900.0})
    assert value_of(made) == 2.0
    run_round(made, {"a": 2.5, "b": 3.0, "c": -900.0}, 1, 1)  # deltas 0.5, 1 and -902
    assert value_of(made) == 2.5


def test_krum_and_multi_krum_drop_the_outlier():
    values = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 1.25, "e": 500.0}
    krum, multi_krum = (aggregator(AggregationConfig(rule=rule, f=1)) for rule in ("krum", "multi_krum"))
    assert "f=" not in run_round(krum, values).why
    run_round(multi_krum, values)
    assert value_of(krum) == 1.25  # 1/4 and 1/4 away from a and b; so is b, from d, but c is farther: 1/2
    assert value_of(multi_krum) == pytest.approx((1 + 1.5 + 2 + 1.25) / 4)


def test_a_lowered_f_is_told_in_the_report():
    made = aggregator(AggregationConfig(rule="multi_krum", f=3))
    report = run_round(made, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 40.0})
    assert report.outcome == "aggregated"
    assert "aggregation.f=3 was lowered to 1" in report.why
    assert value_of(made) == 1.0


def test_clients_that_weigh_nothing_do_not_reach_the_rule():
    # By themselves two of three would be the median.
    made = aggregator(AggregationConfig(rule="median"), "shadow")
    made.open_round(0, ["a", "b", "c"], 0.5)
    for client_id, probability in {"a": 0.9, "b": 0.9, "c": 0.1}.items():
        value = 1.0 if client_id == "c" else 50.0
        made.submit(
            client_id,
            update(client_id, value),
            step_delta(client_id, value),
            scores(client_id, *[probability] * 2, branch="shadow"),
        )
    assert [row.weight for row in made.close_round().clients] == [0, 0, 1]
    assert value_of(made) == 1.0


def test_a_rules_memory_is_part_of_the_state():
    values = {"a": 1.0, "b": 1.0}
    straight = aggregator(AggregationConfig(rule="centered_clipping", centered_clipping={"radius": 0.5}))
    assert straight.state().rule_memory == b""
    run_round(straight, values)
    state = straight.state()
    resumed = aggregator(AggregationConfig(rule="centered_clipping", centered_clipping={"radius": 0.5}))
    resumed.restore(state)
    assert resumed.state() == state
    again = {"a": 2.0, "b": 2.0}
    run_round(straight, again, 1, 1)
    run_round(resumed, again, 1, 1)
    assert straight.adapter() == resumed.adapter()
    assert straight.state() == resumed.state()
    assert straight.state().rule_memory != state.rule_memory


def test_restoring_a_state_without_memory_forgets():
    made = aggregator(AggregationConfig(rule="foolsgold"))
    before = made.state()
    run_round(made, {"a": 1.0, "b": 2.0})
    made.restore(before)
    assert made.state().rule_memory == b""


def test_memory_advances_only_in_aggregated_rounds():
    made = aggregator(AggregationConfig(rule="centered_clipping"), min_updates=2)
    assert run_round(made, {"a": 1.0}).outcome == "no_quorum"
    assert made.state().rule_memory == b""
    assert run_round(made, {"a": 1.0, "b": 1.0}).outcome == "aggregated"
    assert made.state().rule_memory != b""


def test_chance_follows_from_seed_and_round():
    def adapter_after(seed: int, round_index: int = 0) -> bytes:
        made = aggregator(AggregationConfig(rule="flame"), seed=seed)
        run_round(made, {"a": 1.0, "b": 1.0, "c": 1.0}, round_index)
        return made.adapter()

    assert adapter_after(0) == adapter_after(0)
    assert adapter_after(0) != adapter_after(1)
    assert adapter_after(0) != adapter_after(0, round_index=1)
