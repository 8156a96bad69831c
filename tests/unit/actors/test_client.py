"""The client's class without a cluster: what it streams, in which order, and that placement changes nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.aggregator import Aggregator, AggregatorConfig
from actors.client import Client
from actors.config import Recipe, TrainingConfig
from actors.errors import ClientTrainingError
from actors.messages import CanaryReading, LoRAUpdate, ProbeScore, StepDelta, TrainTask
from actors.wire import decode_message, decode_tensors, encode_tensors
from actors.world.datasets import write_parquet
from actors.world.generator import draw
from defense.config import DefenseConfig
from tests.unit.actors.builders import train_task

TRAINING = TrainingConfig(steps=3, batch_size=4, learning_rate=0.01, max_length=64)


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, TRAINING)


def test_a_client_streams_a_delta_per_step_and_then_its_update(client, files):
    *deltas, last = client.train(train_task(files), client.initial_adapter())
    decoded = [decode_message(payload, StepDelta) for payload in deltas]
    assert [(delta.branch, delta.step, delta.num_samples) for delta in decoded] == [("real", step, 4) for step in (1, 2, 3)]
    update = decode_message(last, LoRAUpdate)
    assert update.num_samples == 12
    assert update.loss > 0
    assert set(update.tensors) == set(client.layout().shapes)
    assert set(decoded[0].tensors) == {
        name for name, layer in client.layout().layers.items() if layer == 0 and ".lora_B." in name
    }


def test_the_last_real_delta_is_the_submitted_delta_to_the_bit(client, files):
    start = client.initial_adapter()
    *_, last_delta, last = client.train(train_task(files), start)
    delta, update, base = decode_message(last_delta, StepDelta), decode_message(last, LoRAUpdate), decode_tensors(start)
    assert all(torch.equal(tensor, update.tensors[name] - base[name]) for name, tensor in delta.tensors.items())


def test_the_shadow_comes_first_and_only_the_last_real_delta_follows(client, files):
    *deltas, _ = client.train(train_task(files, shadow_learning_rate=0.01, stream_real="last"), client.initial_adapter())
    decoded = [decode_message(payload, StepDelta) for payload in deltas]
    assert [(delta.branch, delta.step) for delta in decoded] == [("shadow", 1), ("shadow", 2), ("shadow", 3), ("real", 3)]


def test_the_shadow_starts_from_the_fixed_adapter_whatever_the_global_one_is(client, files):
    shadowed = train_task(files, shadow_learning_rate=0.01, stream_real="last")
    first, *_, moved = client.train(shadowed, client.initial_adapter())
    moved_adapter = decode_message(moved, LoRAUpdate).tensors
    again, *_ = client.train(shadowed, encode_tensors(moved_adapter))
    first, again = decode_message(first, StepDelta).tensors, decode_message(again, StepDelta).tensors
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_shadow_at_the_same_rate_from_the_same_start_is_told_from_the_real_branch_by_dropout_alone(client, files):
    *deltas, _ = client.train(train_task(files, shadow_learning_rate=0.01), client.initial_adapter())
    decoded = {(d.branch, d.step): d.tensors for d in (decode_message(payload, StepDelta) for payload in deltas)}
    for name, tensor in decoded["real", 3].items():
        shadow = decoded["shadow", 3][name]
        assert not torch.equal(tensor, shadow)
        assert torch.nn.functional.cosine_similarity(tensor.reshape(1, -1), shadow.reshape(1, -1)) > 0.5


def test_without_a_probe_only_the_update_is_sent(client, files):
    (payload,) = client.train(train_task(files, probe_feature=None), client.initial_adapter())
    assert decode_message(payload, LoRAUpdate).client_id == "a"


def test_files_that_changed_are_read_again_by_every_actor_alike(base_config, lora, world, files, tmp_path):
    kept, fresh = (Client(base_config, lora, TRAINING) for _ in range(2))
    start, copy = kept.initial_adapter(), Path(shutil.copy(*files, tmp_path / "a.parquet"))
    task = train_task((str(copy),), probe_feature=None)
    (before,) = (decode_message(payload, LoRAUpdate).loss for payload in kept.train(task, start))
    write_parquet(copy, draw(world.benign_example, world.roles["federation"].benign, 20, np.random.default_rng(1)))
    one, two = (decode_message(*client.train(task, start), LoRAUpdate).loss for client in (kept, fresh))
    assert one == two != before
    copy.unlink()
    with pytest.raises(ClientTrainingError, match=r"a\.parquet does not exist"):
        list(kept.train(task, start))


def test_what_another_client_did_before_on_the_same_actor_changes_nothing(base_config, lora, files):
    shared, fresh = (Client(base_config, lora, TRAINING) for _ in range(2))
    start = shared.initial_adapter()
    list(shared.train(train_task(files, client_id="b", round_index=3), start))
    one, two = ([*c.train(train_task(files), start)] for c in (shared, fresh))
    assert one[:-1] == two[:-1]
    first, second = (decode_message(stream[-1], LoRAUpdate) for stream in (one, two))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize("change", [{"client_id": "b"}, {"round_index": 1}, {"seed": 1}])
def test_client_round_and_seed_each_change_the_batches(client, files, change):
    start = client.initial_adapter()
    base = decode_message([*client.train(train_task(files), start)][-1], LoRAUpdate)
    other = decode_message([*client.train(train_task(files, **change), start)][-1], LoRAUpdate)
    assert base.loss != other.loss


def test_failures_carry_the_clients_own_traceback(client):
    with pytest.raises(ClientTrainingError) as caught:
        list(client.train(train_task(("/nowhere/x.parquet",)), client.initial_adapter()))
    lines = str(caught.value).splitlines()
    assert lines[0] == "DataError: data file /nowhere/x.parquet does not exist"
    assert any("load_dataset" in line for line in lines)


def test_a_learning_rate_that_explodes_fails_the_client_and_not_the_actor(client, files):
    with pytest.raises(ClientTrainingError, match=r"FloatingPointError: .* lower training\.learning_rate"):
        list(client.train(train_task(files, learning_rate=1e30), client.initial_adapter()))
    assert len([*client.train(train_task(files), client.initial_adapter())]) == 4


def test_the_proximal_term_pulls_the_real_branch_only(base_config, lora, client, files):
    pulled = Client(base_config, lora, TRAINING.model_copy(update={"proximal_mu": 10.0}))
    asked, start = train_task(files, shadow_learning_rate=0.01, stream_real="last"), client.initial_adapter()
    without, with_term = ([*each.train(asked, start)] for each in (client, pulled))
    assert without[:3] == with_term[:3]
    real, held = (decode_message(payloads[3], StepDelta).tensors for payloads in (without, with_term))
    assert not any(torch.equal(tensor, held[name]) for name, tensor in real.items())


def test_a_stays_in_both_branches_when_it_is_frozen(client, files):
    asked = train_task(files, shadow_learning_rate=0.01, probe_feature="all_layers", freeze_a=True)
    *deltas, last = client.train(asked, client.initial_adapter())
    for delta in (decode_message(payload, StepDelta) for payload in deltas):
        assert all(bool(tensor.any()) == ("lora_B" in name) for name, tensor in delta.tensors.items()), delta.branch
    update, start = decode_message(last, LoRAUpdate).tensors, decode_tensors(client.initial_adapter())
    assert all(torch.equal(tensor, start[name]) == ("lora_A" in name) for name, tensor in update.items())


def update_of(client: Client, task: TrainTask) -> LoRAUpdate:
    return decode_message([*client.train(task, client.initial_adapter())][-1], LoRAUpdate)


def equal(one: LoRAUpdate, other: LoRAUpdate) -> bool:
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_a_recipe_multiplies_the_rounds_learning_rate(client, files):
    scaled = update_of(client, train_task(files, recipe=Recipe(learning_rate_factor=0.5)))
    assert equal(scaled, update_of(client, train_task(files, learning_rate=0.005)))
    assert not equal(scaled, update_of(client, train_task(files)))


def test_fewer_steps_are_the_first_of_those_asked_for(base_config, lora, client, files):
    *deltas, last = client.train(train_task(files, recipe=Recipe(steps=2), stream_real="last"), client.initial_adapter())
    (delta,), update = [decode_message(payload, StepDelta) for payload in deltas], decode_message(last, LoRAUpdate)
    assert (delta.step, update.num_samples) == (2, 8)
    short = Client(base_config, lora, TRAINING.model_copy(update={"steps": 2}))
    assert equal(update, update_of(short, train_task(files)))
    second = decode_message([*client.train(train_task(files), client.initial_adapter())][1], StepDelta)
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in delta.tensors.items())


def test_weight_decay_can_be_a_recipes_own(base_config, lora, client, files):
    decaying = Client(base_config, lora, TRAINING.model_copy(update={"weight_decay": 0.5}))
    assert equal(update_of(client, train_task(files, recipe=Recipe(weight_decay=0.5))), update_of(decaying, train_task(files)))
    assert equal(update_of(decaying, train_task(files, recipe=Recipe(weight_decay=0.0))), update_of(client, train_task(files)))


@pytest.mark.parametrize("recipe", [Recipe(optimizer="sgd"), Recipe(learning_rate_factor=2.0), Recipe(weight_decay=0.5)])
def test_a_recipe_changes_the_update_and_not_the_shadow(client, files, recipe):
    asked = {"shadow_learning_rate": 0.01, "stream_real": "last"}
    plain, own = (
        [*client.train(train_task(files, **asked, **more), client.initial_adapter())] for more in ({}, {"recipe": recipe})
    )
    assert own[:3] == plain[:3]
    assert own[3] != plain[3]


@pytest.mark.parametrize(
    ("level", "reading"),
    [
        ("live", ProbeScore(client_id="a", branch="update", step=1, probability=0.1)),
        ("canary", CanaryReading(client_id="a", rise=0.0)),
    ],
)
def test_fewer_steps_cost_nothing_where_the_update_itself_is_judged(client, files, level, reading):
    admission, row = judged(client, train_task(files, recipe=Recipe(steps=2), probe_feature=None), level, [reading])
    assert admission.admitted, admission.reason
    assert (row.num_samples, row.weight) == (8, 1.0)


@pytest.mark.parametrize(
    ("level", "branch"), [("step", "real"), ("client", "real"), ("shadow", "shadow"), ("evidence", "shadow")]
)
def test_where_step_deltas_are_weighed_fewer_steps_are_refused(client, files, level, branch):
    shadow = {"shadow_learning_rate": 0.01, "stream_real": "last"} if branch == "shadow" else {}
    readings = [ProbeScore(client_id="a", branch=branch, step=step, probability=0.1) for step in (1, 2)]
    admission, row = judged(client, train_task(files, recipe=Recipe(steps=2), **shadow), level, readings)
    assert admission.reason == "untied_evidence: the message before the update is of step 2, not the last"
    assert row.weight == 0.0


def judged(client: Client, task: TrainTask, level: str, readings: list):
    """The aggregator's answer to what a client sends at a level, and the client's row."""
    config = AggregatorConfig(training=TRAINING, defense=DefenseConfig(level=level))
    made = Aggregator(config, client.layout(), client.initial_adapter())
    made.open_round(0, ["a"], 0.01)
    *deltas, update = client.train(task, client.initial_adapter())
    admission = made.submit("a", update, deltas[-1] if deltas else None, readings)
    return admission, made.close_round().clients[0]
