"""The aggregator with a server optimizer: rounds by hand, and a state that only aggregated rounds touch."""

from typing import get_args

import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.wire import decode_tensors
from defense.config import AdmissionConfig, AggregationConfig, DefenseConfig, OptimizerName
from tests.unit.actors.builders import B0, LAYOUT, SHAPES, START_BYTES, TRAINING, scores, step_delta, update

REMEMBERING = [name for name in get_args(OptimizerName) if name != "none"]


def aggregator(name: str, level: str = "none", min_updates: int = 1, **parameters) -> Aggregator:
    config = AggregatorConfig(
        training=TRAINING,
        defense=DefenseConfig(level=level),
        aggregation=AggregationConfig(optimizer=name, **{name: parameters} if parameters else {}),
        admission=AdmissionConfig(max_norm=1e9, value_factor=None, product_factor=None),
        min_updates=min_updates,
    )
    return Aggregator(config, LAYOUT, START_BYTES)


def run_round(made: Aggregator, round_index: int, *moves: float, flagged: bool = False):
    """A round of clients that are at global adapter + move."""
    start, version = value_of(made), made.state().version
    names = [f"c{i}" for i in range(len(moves))]
    made.open_round(round_index, names, 0.5)
    for name, move in zip(names, moves, strict=True):
        sent = {"round_index": round_index, "base_version": version}
        probability = 0.9 if flagged else 0.1
        made.submit(
            name,
            update(name, start + move, **sent),
            step_delta(name, 0, tensors={B0: torch.full(SHAPES[B0], start + move) - torch.full(SHAPES[B0], start)}, **sent),
            scores(name, probability, probability, branch="shadow"),
        )
    return made.close_round()


def value_of(made: Aggregator) -> float:
    tensors = decode_tensors(made.adapter())
    (value,) = {float(v) for tensor in tensors.values() for v in tensor.reshape(-1)}
    return value


def test_momentum_carries_the_adapter_on():
    made = aggregator("fedavgm", momentum=0.5)
    values = []
    for round_index, moves in enumerate([(1.0, 3.0), (0.0, 0.0), (0.0, 0.0), (-4.0, -4.0)]):
        run_round(made, round_index, *moves)
        values.append(value_of(made))
    assert values == [2.0, 3.0, 3.5, -0.25]  # by 2, 1, 0.5 and 0.25 - 4


def test_fedadam_by_hand():
    # v = (1 + 1) / 2, (1 + 49) / 2 and m = 0.5, 3.75: by 0.25 and 3.75 / 6.
    made = aggregator("fedadam", tau=1, learning_rate=1, beta1=0.5, beta2=0.5)
    run_round(made, 0, 1.0)
    run_round(made, 1, 7.0)
    assert value_of(made) == 0.25 + 0.625


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_run_goes_on_from_a_state_to_the_bit(name):
    straight, resumed = aggregator(name), aggregator(name)
    assert straight.state().optimizer_memory == b""
    for round_index in range(2):
        run_round(straight, round_index, 0.3, 0.5)
    state = straight.state()
    assert state.optimizer_memory
    resumed.restore(state)
    assert resumed.state() == state
    for round_index in range(2, 4):
        run_round(straight, round_index, 0.1, 0.7)
        run_round(resumed, round_index, 0.1, 0.7)
    assert straight.state() == resumed.state()
    assert straight.state().optimizer_memory != state.optimizer_memory


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_skipped_round_and_one_without_quorum_leave_everything_to_the_bit(name):
    made = aggregator(name, "shadow", min_updates=2)
    run_round(made, 0, 0.3, 0.5)
    before = made.state()
    assert run_round(made, 1, 0.3, 0.5, flagged=True).outcome == "skipped"
    assert run_round(made, 2, 0.3).outcome == "no_quorum"
    after = made.state()
    assert (after.adapter, after.version, after.optimizer_memory) == (before.adapter, before.version, before.optimizer_memory)


def test_restoring_a_state_without_memory_forgets():
    made = aggregator("fedavgm")
    before = made.state()
    run_round(made, 0, 1.0)
    made.restore(before)
    assert made.state() == before


def test_the_optimizer_sees_what_the_rule_makes_of_the_updates():
    config = AggregatorConfig(
        training=TRAINING,
        defense=DefenseConfig(level="none"),
        aggregation=AggregationConfig(rule="median", optimizer="fedavgm", fedavgm={"learning_rate": 0.5}),
        admission=AdmissionConfig(max_norm=1e9, value_factor=None, product_factor=None),
    )
    made = Aggregator(config, LAYOUT, START_BYTES)
    run_round(made, 0, 1.0, 2.0, 900.0)
    assert value_of(made) == 1.0
