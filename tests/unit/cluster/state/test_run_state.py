"""A run's state survives its files to the bit."""

import math
from dataclasses import replace

from actors.messages import AggregatorState
from cluster.state.membership import Roster
from cluster.state.run_state import Change, PendingEvaluation, Realigned, RunState, decode_state, encode_state
from defense.config import DefenseConfig
from defense.guard import GuardState
from tests.unit.cluster.reports import evaluation_report, probe_row, round_report


def aggregator(trust) -> AggregatorState:
    return AggregatorState(
        adapter=b"weights",
        version=1,
        trust=trust,
        defense=DefenseConfig(skip_below=0.3),
        rule_memory=b"remembered",
        optimizer_memory=b"moments",
        control_variates=b"gradients",
    )


def test_a_state_comes_back_as_it_was():
    state = RunState(
        rounds_done=2,
        aggregator=aggregator({"client-000": {"mean": 0.1 + 0.2, "rounds": 2}}),
        roster=Roster(known={"client-000": ("a.parquet",), "client-001": ("b", "c")}, active=("client-000",)),
        guard=GuardState(reference_loss=0.1, certified=b"safe weights", certified_version=1, total=0.1 + 0.2),
        changes=(Change(round=1, order="scale 1"),),
        probe={"probe.json": b"{}", "probe.safetensors": b"numbers"},
        rounds=(round_report(0, {"a": 0.1, "b": None}), round_report(1, {"a": 1 / 3, "b": 1.0}, "skipped")),
        probe_rounds=(probe_row(0, refresh="accepted", refresh_tpr=0.99), probe_row(1)),
        evaluations=(evaluation_report(0, 0.75),),
        pending={2: PendingEvaluation(adapter_version=1, adapter=b"weights")},
        elapsed_s=1.5,
    )
    assert decode_state(encode_state(state)) == state


def test_what_is_not_finite_survives():
    trust = {"a": math.inf}
    rounds = (replace(round_report(0, {}, "rolled_back"), canary_loss=math.inf, guard_sum=math.inf),)
    state = RunState(aggregator=aggregator(trust), roster=Roster(known={}, active=()), rounds=rounds)
    assert decode_state(encode_state(state)) == state


def test_a_realigned_adapter_is_the_final_one_and_the_global_one_stays():
    state = RunState(aggregator=aggregator({}), roster=Roster(known={}, active=()))
    assert state.final_adapter == b"weights"
    realigned = replace(state, realigned=Realigned(adapter=b"repaired", seconds=0.1 + 0.2))
    assert realigned.final_adapter == b"repaired"
    assert decode_state(encode_state(realigned)) == realigned
    assert decode_state(encode_state(realigned)).aggregator.adapter == b"weights"
