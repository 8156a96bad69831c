"""An aggregated round before it is committed: what preservation and guard record, and what a rollback keeps and forgets."""

from dataclasses import replace

import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.messages import AggregatorState, ClientEvidence, Preserved
from actors.wire import decode_tensors
from cluster.round.guard import guarded, preserved, rolled_back
from defense.admission.settings import AdmissionConfig
from defense.config import DefenseConfig
from defense.guard import GuardConfig, GuardState
from defense.rules.config import AggregationConfig
from tests.unit.actors.builders import B0, LAYOUT, START_BYTES, TRAINING, step_delta, update
from tests.unit.cluster.builders import round_report

GUARD = GuardState(error=0.25, certified=b"good", certified_version=2)
REPORT = round_report(4, {"a": 1.0, "b": 0.5})


def state(**fields) -> AggregatorState:
    known = {"adapter": b"aggregate", "version": 5, "trust": {"step": {"a": 1}}}
    defense = DefenseConfig(level="none", guard=GuardConfig(slack=0.25, budget=0.5))
    memories = {"rule_memory": b"rule", "optimizer_memory": b"momentum", "control_variates": b"controls"}
    return AggregatorState(**{**known, "defense": defense, **memories, **fields})


@pytest.mark.parametrize(
    ("num_steps", "adapter", "why"),
    [
        (2, b"mended", "because; refusals were mended in 2 steps: +0.5 to +0.12 nats per token"),
        (0, b"aggregate", "because"),
    ],
)
def test_a_mended_adapter_takes_the_place_of_the_aggregate_and_nothing_else_changes(num_steps, adapter, why):
    found = Preserved(adapter=adapter, rise=0.5, rise_after=0.125, num_steps=num_steps, seconds=1.0)
    report, aggregator = preserved(REPORT, state(defense=DefenseConfig(level="canary")), found)
    assert report == replace(REPORT, refusal_rise=0.5, preserved_rise=0.125, preservation_steps=num_steps, why=why)
    assert aggregator == state(defense=DefenseConfig(level="canary"), adapter=adapter)
    measured_only = preserved(REPORT, state(), found)[0]  # the guard alone, at level none
    assert measured_only.preservation_steps is None


def test_a_harmless_round_is_certified_and_keeps_its_word():
    report, aggregator, guard = guarded(REPORT, state(), GUARD, 0.125, "fedavg")
    assert report == replace(REPORT, guard_sum=0.0)
    assert aggregator == state()
    assert guard == GuardState(error=0.25, certified=b"aggregate", certified_version=5)


def test_a_round_that_spends_some_of_the_budget_stays_and_says_so():
    report, aggregator, guard = guarded(REPORT, state(), GUARD, 0.5, "fedavg")
    assert (report.outcome, report.guard_sum) == ("aggregated", 0.25)
    assert report.why == "because; 0.25 of the guard's budget of 0.5 is spent"
    assert aggregator == state()
    assert guard == replace(GUARD, total=0.25)


def test_a_round_that_spends_it_all_is_rolled_back_with_the_figures_that_decided():
    report, aggregator, guard = guarded(REPORT, state(), replace(GUARD, total=0.25), 0.75, "fedavg")
    assert (report.outcome, report.guard_sum) == ("rolled_back", 0.75)
    for part in ("lost 0.75 nats", "sum 0.75 is above the guard's budget of 0.5", "back to adapter version 2"):
        assert part in report.why
    assert {(row.round_outcome, row.share) for row in report.clients} == {("rolled_back", 0.0)}
    assert [row.weight for row in report.clients] == [1.0, 0.5]
    assert (aggregator.adapter, aggregator.version, aggregator.trust) == (b"good", 5, {"step": {"a": 1}})
    assert guard == GUARD


@pytest.mark.parametrize(("rule", "kept"), [("foolsgold", b"rule"), ("centered_clipping", b""), ("fedavg", b"")])
def test_a_rollback_keeps_what_is_known_of_clients_and_forgets_where_the_adapter_was_heading(rule, kept):
    after = rolled_back(state(), b"good", rule)
    assert after == state(adapter=b"good", rule_memory=kept, optimizer_memory=b"", control_variates=b"")


def test_momentum_does_not_carry_the_adapter_back_and_updates_for_the_aggregate_are_refused():
    config = AggregatorConfig(
        training=TRAINING,
        defense=DefenseConfig(level="none"),
        aggregation=AggregationConfig(optimizer="fedavgm"),
        admission=AdmissionConfig(max_norm=1e9, value_factor=None, product_factor=None),
    )
    made = Aggregator(config, LAYOUT, START_BYTES)

    def run_round(index: int, move: float, base_version: int):
        made.open_round(index, ["a"], 0.5)
        sent = {"round_index": index, "base_version": base_version}
        delta = step_delta("a", 0, tensors={B0: torch.full((3, 2), move)}, **sent)
        answer, admitted = made.admit("a", update("a", move, **sent), delta)
        return answer, made.close_round([ClientEvidence(client_id="a", update=admitted)] if answer.admitted else [])

    report = run_round(0, 2.0, 0)[1]
    settings = GuardConfig(slack=0.25, budget=0.5)
    unsafe = replace(made.state(), defense=DefenseConfig(level="none", guard=settings))
    report, safe, _ = guarded(report, unsafe, GuardState(error=0.25, certified=START_BYTES), 8.0, "fedavg")
    made.restore(safe)
    assert (report.outcome, made.adapter(), made.state().version) == ("rolled_back", START_BYTES, 1)
    assert run_round(1, 0.0, 0)[0].reason.startswith("wrong_version")
    run_round(2, 0.0, 1)
    assert decode_tensors(made.adapter())[B0].abs().max() == 0  # with its momentum it would be at 1.8
