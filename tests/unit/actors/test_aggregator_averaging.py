"""The aggregator that averages products, or with A frozen; also with real clients of the embedded world."""

from dataclasses import replace

import pytest
import torch

from actors.client import Client
from actors.config import TrainingConfig
from actors.messages import LoRAUpdate
from actors.wire import decode_message, decode_tensors
from tests.unit.actors.builders import (
    A0,
    B0,
    LAYOUT,
    SHAPES,
    UNBOUNDED,
    deliver,
    filled,
    make_aggregator,
    random_state,
    run_round,
    train_task,
    update,
)

START = random_state(9)
REAL = TrainingConfig(steps=3, batch_size=4, learning_rate=0.01, max_length=64)


def product(state) -> torch.Tensor:
    return state[B0].double() @ state[A0].double()


def test_svd_averages_what_clients_hold_and_not_their_deltas():
    made, states = make_aggregator(averaging="svd", start=START), {"a": random_state(1), "b": random_state(2)}
    report = run_round(made, states)
    mean = (product(states["a"]) + product(states["b"])) / 2
    u, s, vh = torch.linalg.svd(mean)
    best = (u[:, :2] * s[:2]) @ vh[:2]
    torch.testing.assert_close(product(decode_tensors(made.adapter())), best, rtol=1e-5, atol=1e-6)
    assert report.averaging_error == pytest.approx(float(s[2] / s.norm()), rel=1e-5)
    assert f"{report.averaging_error:.2%} of the mean B A is beyond the rank" in report.why


def test_svd_follows_the_adapter_over_rounds_and_restores_to_the_bit():
    straight, resumed = (make_aggregator(averaging="svd", start=START) for _ in range(2))
    run_round(straight, {"a": random_state(1), "b": random_state(2)})
    state = straight.state()
    assert (state.rule_memory, state.optimizer_memory) == (b"", b"")
    resumed.restore(state)
    for made in (straight, resumed):
        run_round(made, {"a": random_state(3), "b": random_state(3)}, 1)
    assert straight.state() == resumed.state()
    torch.testing.assert_close(product(decode_tensors(straight.adapter())), product(random_state(3)), rtol=1e-5, atol=1e-6)


def test_other_averaging_has_no_error():
    assert run_round(make_aggregator(), {"a": random_state(1)}).averaging_error is None


def test_a_layout_without_pairs_cannot_be_averaged_by_svd():
    odd = replace(LAYOUT, shapes={A0: SHAPES[A0]}, layers={A0: 0})
    with pytest.raises(ValueError, match=r"averaging=svd needs pairs"):
        make_aggregator(averaging="svd", start=filled(0.0, A0), layout=odd)


# With A frozen


def test_an_update_that_changed_a_frozen_factor_is_refused():
    made = make_aggregator(averaging="ffa", start=START)
    made.open_round(0, ["a", "b", "c"], 0.5)
    nudged = START[A0].clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(9.0))
    for client_id, state in {"a": {**START, A0: nudged}, "b": {name: -tensor for name, tensor in START.items()}}.items():
        answer, _ = made.admit(client_id, update(client_id, state))
        assert answer.reason == f"frozen_changed: {A0} is frozen by aggregation.averaging=ffa and was changed"
    made.close_round([deliver(made, "c", update("c", START | filled(1.0, B0)))])
    adapter = decode_tensors(made.adapter())
    assert torch.equal(adapter[A0], START[A0])
    assert torch.equal(adapter[B0], torch.ones(SHAPES[B0]))


@pytest.mark.parametrize("aggregation", [{"rule": "flame"}, {"optimizer": "fedadam"}, {"optimizer": "fedavgm", "rule": "median"}])
def test_neither_a_rules_noise_nor_an_optimizer_moves_a_frozen_factor(aggregation):
    made = make_aggregator(averaging="ffa", start=START, **aggregation)
    for round_index in range(2):
        run_round(made, {name: START | {B0: random_state(i)[B0]} for i, name in enumerate("abc")}, round_index)
    adapter, memory = decode_tensors(made.adapter()), made.state().optimizer_memory
    assert torch.equal(adapter[A0], START[A0])
    assert not torch.equal(adapter[B0], START[B0])
    assert not memory or not any(A0 in name for name in decode_tensors(memory))


def test_a_rule_sees_only_the_factors_that_are_trained():
    made = make_aggregator(averaging="ffa", start=START, rule="lasa", lasa={"sparsity": 0.5, "norm_radius": 9, "sign_radius": 9})
    moved = torch.arange(1.0, 1 + START[B0].numel()).reshape(START[B0].shape) / 8
    run_round(made, {name: START | {B0: START[B0] + moved} for name in "abc"})
    change = decode_tensors(made.adapter())[B0] - START[B0]
    assert (change.abs() < 1e-6).sum() == START[B0].numel() // 2  # half of B, not half of A and B


def test_the_mean_of_factors_is_the_mean_of_products_where_a_is_frozen():
    states = {name: START | {B0: random_state(i)[B0]} for i, name in enumerate("abc")}
    made = make_aggregator(averaging="ffa", start=START)
    run_round(made, states)
    mean = sum(product(state) for state in states.values()) / 3
    torch.testing.assert_close(product(decode_tensors(made.adapter())), mean, rtol=1e-5, atol=1e-6)


# Real clients


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, REAL)


def aggregator_of(client: Client, averaging: str):
    start = decode_tensors(client.initial_adapter())
    return make_aggregator(averaging=averaging, start=start, layout=client.layout(), training=REAL, admission=UNBOUNDED)


def train(client: Client, files, client_id: str, made, round_index: int, **changes) -> bytes:
    version = {"round_index": round_index, "base_version": made.state().version}
    task = train_task(files, client_id=client_id, probe_feature=None, **version, **changes)
    (sent,) = client.train(task, made.adapter())
    return sent


@pytest.mark.parametrize("averaging", ["ffa", "svd"])
def test_rounds_with_real_clients(client, files, averaging):
    made, initial = aggregator_of(client, averaging), decode_tensors(client.initial_adapter())
    for round_index in range(2):
        made.open_round(round_index, ["a", "b"], 0.01)
        sent = {name: train(client, files, name, made, round_index, freeze_a=averaging == "ffa") for name in "ab"}
        report = made.close_round([deliver(made, name, payload) for name, payload in sent.items()])
        assert report.outcome == "aggregated"
    adapter = decode_tensors(made.adapter())
    same = {name: torch.equal(adapter[name], tensor) for name, tensor in initial.items()}
    assert not any(equal for name, equal in same.items() if "lora_B" in name)
    assert {equal for name, equal in same.items() if "lora_A" in name} == {averaging == "ffa"}
    assert averaging == "ffa" or 0 < report.averaging_error < 0.3


def test_a_real_client_that_trains_a_is_refused_and_the_same_actor_can_train_either_way(client, files):
    made = aggregator_of(client, "ffa")
    made.open_round(0, ["a"], 0.01)
    before = train(client, files, "a", made, 0)
    assert made.admit("a", before)[0].reason.startswith("frozen_changed")
    train(client, files, "a", made, 0, freeze_a=True)
    one, other = (decode_message(sent, LoRAUpdate).tensors for sent in (before, train(client, files, "a", made, 0)))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
