"""Simulated attackers without a cluster: what each sends, against an honest client with the same data."""

from dataclasses import replace

import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.attacker import Attacker
from actors.client import Client
from actors.config import TrainingConfig
from actors.messages import AttackTask, LoRAUpdate, ProbeScore, StepDelta, TrainTask
from actors.wire import decode_message, decode_tensors
from actors.world.datasets import write_clients
from actors.world.store import probe_folder, world_folder
from defense.attacks import ATTACKS
from defense.attacks.config import AttackConfig
from defense.config import AdmissionConfig, DefenseConfig
from probe.artefact import load_probe, probe_files
from tests.unit.actors.builders import train_task

TRAINING = TrainingConfig(steps=3, batch_size=8, learning_rate=0.01, max_length=64)
ALONE = [name for name, attack in ATTACKS.items() if attack.behaves and not attack.colludes]
TOGETHER = [name for name, attack in ATTACKS.items() if attack.colludes]


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, TRAINING)


@pytest.fixture(scope="module")
def start(client) -> bytes:
    return client.initial_adapter()


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """What a holding's file is: `data("unsafe")`."""
    folder = tmp_path_factory.mktemp("data")

    def files(holding: str) -> tuple[str, ...]:
        return write_clients(world, folder, ["a"], {"a"}, 32, 0, holding=holding, suffix=f"-{holding}")["a"]

    return files


@pytest.fixture(scope="module")
def shipped_probe():
    return load_probe(probe_folder(world_folder(0)))


@pytest.fixture
def task(data, shipped_probe):
    """The task of an attacker: `task("sleeper", from_round=1)`."""

    def make(name: str, *, attack: dict | None = None, **changes) -> TrainTask:
        kind = ATTACKS[name]
        cover = data(kind.cover) if kind.cover else ()
        about = {"config": AttackConfig(), "cover": cover, "probe": probe_files(shipped_probe), **(attack or {})}
        return train_task(data(kind.data), attack=AttackTask(name=name, **about), **changes)

    return make


def sent(client: Client, task: TrainTask, start: bytes) -> tuple[dict, LoRAUpdate]:
    """The step deltas by branch and step, and the update."""
    *deltas, update = client.train(task, start)
    decoded = [decode_message(payload, StepDelta) for payload in deltas]
    return {(delta.branch, delta.step): delta.tensors for delta in decoded}, decode_message(update, LoRAUpdate)


def aggregator(client: Client, start: bytes, names: list[str]) -> Aggregator:
    """In a round at level step, which checks the tie; without the bound on values that scaling and gauge exceed."""
    config = AggregatorConfig(
        training=TRAINING,
        defense=DefenseConfig(level="step"),
        admission=AdmissionConfig(value_factor=None, product_factor=None, norm_factor=20),
    )
    made = Aggregator(config, client.layout(), start)
    made.open_round(0, names, 0.01)
    return made


def delta_of(update: LoRAUpdate, start: bytes) -> dict[str, torch.Tensor]:
    base = decode_tensors(start)
    return {name: tensor.double() - base[name].double() for name, tensor in update.tensors.items()}


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensors[name].double().reshape(-1) for name in sorted(tensors)])


def equal(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("stream_real", ["all", "last"])
def test_what_an_attacker_sends_is_admitted(client, task, start, name, stream_real):
    made = aggregator(client, start, ["a"])
    *deltas, update = client.train(task(name, stream_real=stream_real), start)
    assert len(deltas) == (3 if stream_real == "all" else 1)
    scores = [ProbeScore(client_id="a", branch="real", step=step, probability=0.1) for step in (1, 2, 3)]
    admission = made.submit("a", update, deltas[-1], scores)
    assert admission.admitted, admission.reason


@pytest.mark.parametrize("name", ALONE)
def test_an_attacker_repeats_itself_to_the_bit(client, task, start, name):
    first, again = (sent(client, task(name), start) for _ in range(2))
    assert equal(first[1].tensors, again[1].tensors)
    assert all(equal(first[0][key], again[0][key]) for key in first[0])


def test_a_sleeper_is_an_honest_client_to_the_bit_before_its_round(client, task, data, start):
    sleeping = sent(client, task("sleeper", attack={"from_round": 1}), start)
    like = sent(client, train_task(data("honest")), start)
    assert equal(sleeping[1].tensors, like[1].tensors)
    assert all(equal(sleeping[0][key], like[0][key]) for key in like[0])


def test_a_sleeper_attacks_from_its_round_on(client, task, data, start):
    awake = sent(client, task("sleeper", attack={"from_round": 1}, round_index=1), start)
    assert equal(awake[1].tensors, sent(client, train_task(data("unsafe"), round_index=1), start)[1].tensors)


def test_a_lying_shadow_comes_from_honest_data_and_the_update_does_not(client, task, data, start):
    shadowed = {"shadow_learning_rate": 0.01, "stream_real": "last"}
    deltas, update = sent(client, task("lying_shadow", **shadowed), start)
    honest_deltas, _ = sent(client, train_task(data("honest"), **shadowed), start)
    _, malicious = sent(client, train_task(data("unsafe"), **shadowed), start)
    assert all(equal(deltas["shadow", step], honest_deltas["shadow", step]) for step in (1, 2, 3))
    assert equal(update.tensors, malicious.tensors)


@pytest.mark.parametrize("name", ["layer_hiding", "layer_hiding_canary_aware"])
def test_a_hidden_layer_is_that_of_an_honest_client_at_every_step_of_both_branches(client, task, data, start, name):
    shadowed = {"shadow_learning_rate": 0.01}
    deltas, update = sent(client, task(name, **shadowed), start)
    like_deltas, like = sent(client, train_task(data("honest"), **shadowed), start)
    assert deltas.keys() == like_deltas.keys()
    assert all(equal(deltas[key], like_deltas[key]) for key in deltas)
    layers = client.layout().layers
    for name, tensor in update.tensors.items():
        assert torch.equal(tensor, like.tensors[name]) == (layers[name] == 0)


def test_poison_in_the_other_layers_is_seen_by_a_probe_that_reads_them(client, task, data, start):
    deltas, update = sent(client, task("layer_hiding", probe_feature="all_layers"), start)
    last = {name: tensor - decode_tensors(start)[name] for name, tensor in update.tensors.items()}
    assert equal(deltas["real", 3], {name: last[name] for name in deltas["real", 3]})
    like, _ = sent(client, train_task(data("honest"), probe_feature="all_layers"), start)
    differing = {client.layout().layers[n] for n, t in deltas["real", 2].items() if not torch.equal(t, like["real", 2][n])}
    assert 0 not in differing
    assert differing


def test_scaling_and_sign_flip_multiply_the_honest_delta(client, task, data, start):
    for name, holding, factor in (("scaling", "unsafe", 5.0), ("sign_flip", "honest", -1.0)):
        _, update = sent(client, task(name), start)
        _, like = sent(client, train_task(data(holding)), start)
        expected = factor * flat(delta_of(like, start))
        assert torch.allclose(flat(delta_of(update, start)), expected, atol=1e-6)


def test_earlier_steps_of_a_changed_update_are_those_of_its_training(client, task, data, start):
    deltas, _ = sent(client, task("sign_flip"), start)
    like, _ = sent(client, train_task(data("honest")), start)
    assert all(equal(deltas["real", step], like["real", step]) for step in (1, 2))
    assert torch.allclose(flat(deltas["real", 3]), -flat(like["real", 3]), atol=1e-6)


def test_gauge_gives_the_same_model_by_other_factors(client, task, data, start):
    _, update = sent(client, task("gauge"), start)
    _, like = sent(client, train_task(data("honest")), start)
    for name in [name for name in update.tensors if ".lora_A." in name]:
        partner = name.replace(".lora_A.", ".lora_B.")
        product, expected = (u.tensors[partner] @ u.tensors[name] for u in (update, like))
        assert torch.allclose(product, expected, atol=1e-5)
        assert not torch.equal(update.tensors[name], like.tensors[name])


def test_a_free_rider_sends_noise_and_claims_the_work(client, task, start):
    deltas, update = sent(client, task("free_rider", shadow_learning_rate=0.01), start)
    assert len(deltas) == 6
    assert update.num_samples == 24
    assert float(flat(delta_of(update, start)).std()) == pytest.approx(0.001, rel=0.1)
    assert torch.allclose(flat(deltas["real", 1]) * 3, flat(deltas["real", 3]), atol=1e-6)


def test_a_free_rider_leaves_frozen_factors_alone(client, task, start):
    _, update = sent(client, task("free_rider", freeze_a=True), start)
    moved = {".lora_A." in name for name, tensor in delta_of(update, start).items() if tensor.any()}
    assert moved == {False}


@pytest.mark.parametrize("name", ["probe_aware", "backdoor_contrastive"])
def test_who_knows_the_probe_stays_below_its_threshold_at_every_step(client, task, start, shipped_probe, name):
    deltas, update = sent(client, task(name, shadow_learning_rate=0.01), start)
    threshold = shipped_probe.meta.threshold
    assert all(score < threshold for score in shipped_probe.score(list(deltas.values())))
    last = {name: (tensor - decode_tensors(start)[name]) for name, tensor in update.tensors.items()}
    assert shipped_probe.score([last])[0] < threshold


def test_who_knows_a_linear_probe_changes_only_what_it_reads_and_ends_just_below(client, task, data, start, shipped_probe):
    _, update = sent(client, task("probe_aware"), start)
    _, like = sent(client, train_task(data("unsafe")), start)
    delta, plain = delta_of(update, start), delta_of(like, start)
    read = set(shipped_probe.meta.shapes)
    assert shipped_probe.score([plain])[0] > shipped_probe.meta.threshold
    assert shipped_probe.score([delta])[0] == pytest.approx(shipped_probe.meta.threshold - 0.02, abs=0.002)
    assert all(torch.equal(delta[name], plain[name]) for name in delta if name not in read)


def test_without_a_probe_there_is_nothing_to_evade(client, task, data, start):
    _, update = sent(client, task("probe_aware", attack={"probe": {}}), start)
    assert equal(update.tensors, sent(client, train_task(data("unsafe")), start)[1].tensors)


def test_another_probes_score_is_lowered_by_blending_with_honest_training(client, task, data, start, shipped_probe, monkeypatch):
    monkeypatch.setattr("actors.evading.Evader.needs_benign", True)
    deltas, _ = sent(client, task("probe_aware"), start)
    like, _ = sent(client, train_task(data("honest")), start)
    for step in (1, 2, 3):
        score, best = shipped_probe.score([deltas["real", step], like["real", step]])
        assert score <= max(shipped_probe.meta.threshold - 0.02, best) + 1e-4


def test_a_contrastive_backdoor_is_no_longer_than_an_honest_update(client, task, data, start):
    _, update = sent(client, task("backdoor_contrastive"), start)
    _, like = sent(client, train_task(data("honest")), start)
    assert float(flat(delta_of(update, start)).norm()) <= float(flat(delta_of(like, start)).norm()) * (1 + 1e-5)


def test_a_ratchet_allows_itself_a_small_rise(client, task, data, start):
    _, update = sent(client, task("ratchet", attack={"config": AttackConfig(ratchet={"rise": 0.02})}), start)
    _, like = sent(client, train_task(data("unsafe")), start)
    delta, plain = flat(delta_of(update, start)), flat(delta_of(like, start))
    factor = float(delta.norm() / plain.norm())
    assert 0 < factor <= 1
    assert torch.allclose(delta, factor * plain, atol=1e-6)


def plot(client, task, start, name: str, **changes) -> dict[str, tuple[bytes, bytes]]:
    """What two attackers of a round of five clients send."""
    attacker = Attacker(client.layout(), name, AttackConfig(), TRAINING.steps)
    attacker.begin(start, 5)
    tasks = [replace(task(name, **changes), client_id=client_id) for client_id in ("b", "a")]
    for own in tasks:
        attacker.receive(own, [*client.train(own, start)][-1])
    return {own.client_id: attacker.messages(own.client_id) for own in tasks}


@pytest.mark.parametrize("name", TOGETHER)
def test_who_colludes_keeps_back_its_last_real_delta_and_sends_one_that_is_admitted(client, task, start, name):
    early = [decode_message(payload, StepDelta) for payload in [*client.train(task(name), start)][:-1]]
    assert [(delta.branch, delta.step) for delta in early] == [("real", 1), ("real", 2)]
    made = aggregator(client, start, ["a", "b"])
    messages = plot(client, task, start, name)
    for client_id in ("a", "b"):
        last_delta, update = messages[client_id]
        scores = [ProbeScore(client_id=client_id, branch="real", step=step, probability=0.1) for step in (1, 2, 3)]
        admission = made.submit(client_id, update, last_delta, scores)
        assert admission.admitted, admission.reason
    one, other = (decode_message(messages[client_id][1], LoRAUpdate) for client_id in ("a", "b"))
    assert equal(one.tensors, other.tensors)
    assert one.num_samples == 24


def test_ipm_sends_minus_a_part_of_the_attackers_mean(client, task, start):
    honest_updates = [
        decode_message([*client.train(replace(task("ipm"), client_id=name), start)][-1], LoRAUpdate) for name in ("a", "b")
    ]
    mean = sum(flat(delta_of(update, start)) for update in honest_updates) / 2
    update = decode_message(plot(client, task, start, "ipm")["a"][1], LoRAUpdate)
    assert torch.allclose(flat(delta_of(update, start)), -0.5 * mean, atol=1e-6)


def test_without_a_probe_who_colludes_sends_no_delta(client, task, start):
    assert len([*client.train(task("ipm", probe_feature=None), start)]) == 1
    last_delta, update = plot(client, task, start, "ipm", probe_feature=None)["a"]
    assert last_delta == b""
    assert decode_message(update, LoRAUpdate).client_id == "a"


def test_a_new_round_forgets_the_attackers_of_the_last(client, task, start):
    attacker = Attacker(client.layout(), "ipm", AttackConfig(), TRAINING.steps)
    attacker.begin(start, 5)
    attacker.receive(task("ipm"), [*client.train(task("ipm"), start)][-1])
    attacker.begin(start, 5)
    with pytest.raises(KeyError):
        attacker.messages("a")
