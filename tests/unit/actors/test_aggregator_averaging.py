"""The aggregator that averages products, or with A frozen; also with real clients of the embedded world."""

import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.client import Client
from actors.config import TrainingConfig
from actors.messages import AdapterLayout, LoRAUpdate, TrainTask
from actors.wire import decode_message, decode_tensors, encode_tensors
from defense.config import AdmissionConfig, AggregationConfig, DefenseConfig
from tests.unit.actors.builders import A0, B0, LAYOUT, SHAPES, START_BYTES, TRAINING, update

REAL = TrainingConfig(steps=3, batch_size=4, learning_rate=0.01, max_length=64)


def aggregator(averaging: str, start: bytes = START_BYTES, layout: AdapterLayout = LAYOUT, **aggregation) -> Aggregator:
    config = AggregatorConfig(
        training=REAL if layout is not LAYOUT else TRAINING,
        defense=DefenseConfig(level="none"),
        aggregation=AggregationConfig(averaging=averaging, **aggregation),
        admission=AdmissionConfig(max_norm=1e9, value_factor=None, product_factor=None),
    )
    return Aggregator(config, layout, start)


def run_round(made: Aggregator, states: dict[str, dict[str, torch.Tensor]], round_index: int = 0):
    version = made.state().version
    made.open_round(round_index, list(states), 0.5)
    for client_id, state in states.items():
        made.submit(client_id, update(client_id, 0, tensors=state, round_index=round_index, base_version=version), None, [])
    return made.close_round()


def random_state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def product(state) -> torch.Tensor:
    return state[B0].double() @ state[A0].double()


def test_svd_averages_what_clients_hold_and_not_their_deltas():
    start = random_state(9)
    made = aggregator("svd", encode_tensors(start))
    states = {"a": random_state(1), "b": random_state(2)}
    report = run_round(made, states)
    mean = (product(states["a"]) + product(states["b"])) / 2
    u, s, vh = torch.linalg.svd(mean)
    best = (u[:, :2] * s[:2]) @ vh[:2]
    torch.testing.assert_close(product(decode_tensors(made.adapter())), best, rtol=1e-5, atol=1e-6)
    assert report.averaging_error == pytest.approx(float(s[2] / s.norm()), rel=1e-5)
    assert f"{report.averaging_error:.2%} of the mean B A is beyond the rank" in report.why


def test_svd_follows_the_adapter_over_rounds_and_restores_to_the_bit():
    straight, resumed = (aggregator("svd", encode_tensors(random_state(9))) for _ in range(2))
    run_round(straight, {"a": random_state(1), "b": random_state(2)})
    state = straight.state()
    assert (state.rule_memory, state.optimizer_memory) == (b"", b"")
    resumed.restore(state)
    for made in (straight, resumed):
        run_round(made, {"a": random_state(3), "b": random_state(3)}, 1)
    assert straight.state() == resumed.state()
    torch.testing.assert_close(product(decode_tensors(straight.adapter())), product(random_state(3)), rtol=1e-5, atol=1e-6)


def test_other_averaging_tells_no_error():
    assert run_round(aggregator("factors"), {"a": random_state(1)}).averaging_error is None


def test_a_layout_without_pairs_cannot_be_averaged_by_svd():
    odd = AdapterLayout(shapes={A0: (2, 3)}, layers={A0: 0}, model_fingerprint="m", lora_fingerprint="l")
    with pytest.raises(ValueError, match=r"averaging=svd needs pairs"):
        aggregator("svd", encode_tensors({A0: torch.zeros(2, 3)}), odd)


def test_with_a_frozen_an_update_that_changed_it_is_refused():
    start = random_state(9)
    made = aggregator("ffa", encode_tensors(start))
    made.open_round(0, ["a", "b", "c"], 0.5)
    nudged = start | {A0: start[A0].clone()}
    nudged[A0][0, 0] = torch.nextafter(nudged[A0][0, 0], torch.tensor(9.0))
    flipped = {A0: -start[A0], B0: -start[B0]}
    for client_id, state in {"a": nudged, "b": flipped}.items():
        answer = made.submit(client_id, update(client_id, 0, tensors=state), None, [])
        assert not answer.admitted
        assert answer.reason.startswith(f"frozen_changed: {A0} is frozen by aggregation.averaging=ffa")
    assert made.submit("c", update("c", 0, tensors=start | {B0: torch.ones(SHAPES[B0])}), None, []).admitted
    made.close_round()
    adapter = decode_tensors(made.adapter())
    assert torch.equal(adapter[A0], start[A0])
    assert torch.equal(adapter[B0], torch.ones(SHAPES[B0]))


@pytest.mark.parametrize("aggregation", [{"rule": "flame"}, {"optimizer": "fedadam"}, {"optimizer": "fedavgm", "rule": "median"}])
def test_with_a_frozen_neither_a_rules_noise_nor_an_optimizer_moves_it(aggregation):
    start = random_state(9)
    made = aggregator("ffa", encode_tensors(start), **aggregation)
    for round_index in range(2):
        run_round(made, {name: start | {B0: random_state(i)[B0]} for i, name in enumerate("abc")}, round_index)
    adapter = decode_tensors(made.adapter())
    assert torch.equal(adapter[A0], start[A0])
    assert not torch.equal(adapter[B0], start[B0])
    memory = made.state().optimizer_memory
    assert not memory or not any(A0 in name for name in decode_tensors(memory))


def test_with_a_frozen_a_rule_sees_the_others_alone():
    start = random_state(9)
    made = aggregator("ffa", encode_tensors(start), rule="lasa", lasa={"sparsity": 0.5, "norm_radius": 9, "sign_radius": 9})
    moved = torch.arange(1.0, 1 + start[B0].numel()).reshape(start[B0].shape)
    run_round(made, {name: start | {B0: start[B0] + moved} for name in "abc"})
    change = decode_tensors(made.adapter())[B0] - start[B0]
    assert (change.abs() < 1e-6).sum() == start[B0].numel() // 2  # half of B, not half of A and B


def test_with_a_frozen_the_mean_of_factors_is_the_mean_of_products():
    start = random_state(9)
    states = {name: start | {B0: random_state(i)[B0]} for i, name in enumerate("abc")}
    made = aggregator("ffa", encode_tensors(start))
    run_round(made, states)
    mean = sum(product(state) for state in states.values()) / 3
    torch.testing.assert_close(product(decode_tensors(made.adapter())), mean, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, REAL)


def train(client: Client, files, client_id: str, made: Aggregator, round_index: int, **task) -> bytes:
    fields = {"learning_rate": 0.01, "seed": 0, "probe_feature": None, "files": files}
    version = made.state().version
    asked = TrainTask(client_id=client_id, round_index=round_index, base_version=version, **(fields | task))
    return list(client.train(asked, made.adapter()))[-1]


@pytest.mark.parametrize("averaging", ["ffa", "svd"])
def test_rounds_with_real_clients(client, files, averaging):
    initial = decode_tensors(client.initial_adapter())
    made = aggregator(averaging, client.initial_adapter(), client.layout())
    for round_index in range(2):
        made.open_round(round_index, ["a", "b"], 0.01)
        for client_id in "ab":
            sent = train(client, files, client_id, made, round_index, freeze_a=averaging == "ffa")
            assert made.submit(client_id, sent, None, []).admitted
        report = made.close_round()
        assert report.outcome == "aggregated"
    adapter = decode_tensors(made.adapter())
    same = {name: torch.equal(adapter[name], tensor) for name, tensor in initial.items()}
    assert not any(equal for name, equal in same.items() if "lora_B" in name)
    assert {equal for name, equal in same.items() if "lora_A" in name} == {averaging == "ffa"}
    assert averaging == "ffa" or 0 < report.averaging_error < 0.3


def test_a_real_client_that_trains_a_is_refused(client, files):
    made = aggregator("ffa", client.initial_adapter(), client.layout())
    made.open_round(0, ["a"], 0.01)
    answer = made.submit("a", train(client, files, "a", made, 0), None, [])
    assert answer.reason.startswith("frozen_changed")


def test_after_a_frozen_round_the_same_actor_trains_a_again(client, files):
    made = aggregator("factors", client.initial_adapter(), client.layout())
    before = decode_message(train(client, files, "a", made, 0), LoRAUpdate).tensors
    train(client, files, "a", made, 0, freeze_a=True)
    again = decode_message(train(client, files, "a", made, 0), LoRAUpdate).tensors
    assert all(torch.equal(tensor, again[name]) for name, tensor in before.items())
