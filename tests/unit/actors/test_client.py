"""The client's class without a cluster: what it streams, in which order, and that placement changes nothing."""

import pytest
import torch

from actors.client import Client
from actors.config import TrainingConfig
from actors.errors import ClientTrainingError
from actors.wire import decode_tensors, encode_tensors
from tests.unit.actors.builders import train_task
from tests.unit.actors.sent import Sent, equal, trained

TRAINING = TrainingConfig(steps=3, batch_size=4, learning_rate=0.01, max_length=64)
SHADOWED = {"shadow_learning_rate": 0.01, "stream_real": "last"}


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, TRAINING)


@pytest.fixture(scope="module")
def start(client) -> bytes:
    return client.initial_adapter()


@pytest.fixture(scope="module")
def plain(client, files, start) -> Sent:
    """What the client sends for the plain task."""
    return trained(client, train_task(files), start)


def test_a_client_streams_a_delta_per_step_and_then_its_update(client, plain):
    assert list(plain.steps) == [("real", step) for step in (1, 2, 3)]
    assert plain.update.num_samples == 12
    assert plain.update.loss > 0
    assert set(plain.update.tensors) == set(client.layout().shapes)
    of_first_layer = {name for name, layer in client.layout().layers.items() if layer == 0 and ".lora_B." in name}
    assert set(plain.steps["real", 1]) == of_first_layer


def test_the_last_real_delta_is_the_submitted_delta_to_the_bit(plain, start):
    last, base = plain.steps["real", 3], decode_tensors(start)
    assert equal(last, {name: plain.update.tensors[name] - base[name] for name in last})


def test_the_shadow_comes_first_and_starts_from_the_fixed_adapter_whatever_the_global_one_is(client, files, start, plain):
    shadowed = train_task(files, **SHADOWED)
    first = trained(client, shadowed, start)
    assert list(first.steps) == [("shadow", 1), ("shadow", 2), ("shadow", 3), ("real", 3)]
    assert equal(first.update.tensors, plain.update.tensors)
    moved = trained(client, shadowed, encode_tensors(first.update.tensors))
    assert moved.payloads[:3] == first.payloads[:3]
    # From the same start at the same rate, the branches differ by dropout alone.
    for name, real in first.steps["real", 3].items():
        shadow = first.steps["shadow", 3][name]
        assert not torch.equal(real, shadow)
        assert torch.nn.functional.cosine_similarity(real.reshape(1, -1), shadow.reshape(1, -1)) > 0.5


def test_without_a_probe_only_the_update_is_sent(client, files, start, plain):
    sent = trained(client, train_task(files, probe_feature=None), start)
    assert len(sent.payloads) == 1
    assert equal(sent.update.tensors, plain.update.tensors)


def test_fewer_steps_are_the_first_of_those_asked_for(client, files, start, plain):
    fewer = trained(client, train_task(files, num_steps=2, stream_real="last"), start)
    assert (list(fewer.steps), fewer.update.num_samples) == ([("real", 2)], 8)
    assert equal(fewer.steps["real", 2], plain.steps["real", 2])


def test_what_another_client_did_before_on_the_same_actor_changes_nothing(base_config, lora, files, start, plain):
    shared = Client(base_config, lora, TRAINING)
    trained(shared, train_task(files, client_id="b", round_index=3, freeze_a=True), start)
    again = trained(shared, train_task(files), start)
    assert again.payloads[:-1] == plain.payloads[:-1]
    assert equal(again.update.tensors, plain.update.tensors)


@pytest.mark.parametrize("change", [{"client_id": "b"}, {"round_index": 1}, {"seed": 1}])
def test_client_round_and_seed_each_change_the_batches(client, files, start, plain, change):
    assert trained(client, train_task(files, **change), start).update.loss != plain.update.loss


def test_failures_carry_the_clients_own_traceback(client, start):
    with pytest.raises(ClientTrainingError) as caught:
        list(client.train(train_task(("/nowhere/x.tokens",)), start))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("DataError: token file /nowhere/x.tokens cannot be read: [Errno 2]")
    assert any("load_dataset" in line for line in lines)


def test_a_learning_rate_that_explodes_fails_the_client_and_not_the_actor(client, files, start):
    with pytest.raises(ClientTrainingError, match=r"FloatingPointError: .* lower training\.learning_rate"):
        list(client.train(train_task(files, learning_rate=1e30), start))
    assert len([*client.train(train_task(files), start)]) == 4


def test_the_proximal_term_pulls_the_real_branch_only(base_config, lora, client, files, start):
    pulled = Client(base_config, lora, TRAINING.model_copy(update={"proximal_mu": 10.0}))
    without, with_term = (trained(each, train_task(files, **SHADOWED), start) for each in (client, pulled))
    assert without.payloads[:3] == with_term.payloads[:3]
    held = with_term.steps["real", 3]
    assert not any(torch.equal(tensor, held[name]) for name, tensor in without.steps["real", 3].items())


def test_a_stays_in_both_branches_when_it_is_frozen(client, files, start):
    asked = train_task(files, shadow_learning_rate=0.01, probe_feature="all_layers", freeze_a=True)
    sent = trained(client, asked, start)
    for step, tensors in sent.steps.items():
        assert all(bool(tensor.any()) == ("lora_B" in name) for name, tensor in tensors.items()), step
    assert all(bool(tensor.any()) == ("lora_B" in name) for name, tensor in sent.delta.items())
