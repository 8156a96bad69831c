"""A client whose gradients are corrected by SCAFFOLD, down to the training loop, and attackers in its place."""

from dataclasses import replace

import pytest
import torch

from actors.attacker import Attacker
from actors.client import Client
from actors.config import LoraConfig, Recipe, TrainingConfig
from actors.data.prompting import IGNORED
from actors.errors import ClientTrainingError
from actors.local_training import response_loss_sum
from actors.messages import AttackTask, LoRAUpdate, StepDelta
from actors.scaffold import CLIPPING_SLACK
from actors.wire import decode_message, decode_tensors, encode_tensors
from actors.world.store import probe_folder, world_folder
from defense.admission import check_control_variate
from defense.attacks import ATTACKS
from defense.attacks.config import AttackConfig
from probe.artefact import load_probe, probe_files
from tests.unit.actors.builders import train_task

TRAINING = TrainingConfig(steps=3, batch_size=4, learning_rate=0.01, max_length=64, max_grad_norm=0.01)
SHADOWED = {"shadow_learning_rate": 0.01, "stream_real": "last"}


@pytest.fixture(scope="module")
def lora(lora) -> LoraConfig:
    """Without dropout, so that gradients at one point can be compared."""
    return lora.model_copy(update={"dropout": 0.0})


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, TRAINING)


@pytest.fixture(scope="module")
def warm(client) -> bytes:
    """A start where both factors are non-zero, so that both have gradients."""
    generator = torch.Generator().manual_seed(3)
    return encode_tensors({name: torch.randn(shape, generator=generator) / 16 for name, shape in client.layout().shapes.items()})


def filled(client: Client, value: float, *, only: str = "lora_") -> bytes:
    shapes = client.layout().shapes
    return encode_tensors({name: torch.full(shape, value) for name, shape in shapes.items() if only in name})


def update_of(messages: list[bytes]) -> LoRAUpdate:
    return decode_message(messages[-1], LoRAUpdate)


def same(one, other) -> bool:
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def clipped_gradients(client: Client, start: bytes, files) -> list[dict[str, torch.Tensor]]:
    """At the start, of each batch, in float64: by automatic differentiation, clipped by hand."""
    model, found = client._model, []
    model.load_adapter(decode_tensors(start))
    for batch in client._batches(train_task(files)):
        loss = response_loss_sum(model, batch) / int((batch.labels[:, 1:] != IGNORED).sum())
        given = torch.autograd.grad(loss, list(model.adapter_parameters.values()))
        norm = float(torch.cat([tensor.double().flatten() for tensor in given]).norm())
        assert norm > TRAINING.max_grad_norm
        scale = TRAINING.max_grad_norm / norm
        found.append({name: scale * tensor.double() for name, tensor in zip(model.adapter_parameters, given, strict=True)})
    return found


def test_a_correction_of_zero_trains_as_without_to_the_bit(client, files, warm):
    asked = train_task(files, **SHADOWED)
    plain, corrected = [*client.train(asked, warm)], [*client.train(asked, warm, filled(client, 0.0))]
    assert corrected[:-1] == plain[:-1]
    assert same(update_of(corrected).tensors, update_of(plain).tensors)
    assert update_of(plain).control_variate is None
    assert set(update_of(corrected).control_variate) == set(client.layout().shapes)


def test_the_control_variate_is_the_mean_of_the_clipped_gradients_before_correction(client, files, warm):
    """At a learning rate of next to nothing every step's gradient is that at the start, and a correction cannot change it."""
    still = train_task(files, learning_rate=1e-12)
    control = update_of([*client.train(still, warm, filled(client, 5.0))]).control_variate
    found = clipped_gradients(client, warm, files)
    for name, tensor in control.items():
        torch.testing.assert_close(tensor.double(), sum(each[name] for each in found) / 3, rtol=1e-3, atol=1e-7)


def test_the_correction_is_added_to_the_gradient_that_the_optimizer_takes(client, files, warm):
    """A step of plain gradient descent moves by the learning rate times (g + correction), and does not clip it again."""
    one_step = train_task(files, recipe=Recipe(steps=1, optimizer="sgd"), learning_rate=0.1)
    plain, corrected = (update_of([*client.train(one_step, warm, filled(client, value))]) for value in (0.0, 2.0))
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(corrected.tensors[name], tensor - 0.1 * 2.0, rtol=0, atol=1e-6)
    assert same(corrected.control_variate, plain.control_variate)


def test_the_shadow_is_never_corrected(client, files, warm):
    asked = train_task(files, **SHADOWED)
    plain, corrected = [*client.train(asked, warm)], [*client.train(asked, warm, filled(client, 0.3))]
    assert corrected[:3] == plain[:3]
    assert corrected[3] != plain[3]


def test_the_proximal_term_is_part_of_the_control_variate(base_config, lora, client, files, warm):
    held = Client(base_config, lora, TRAINING.model_copy(update={"proximal_mu": 0.01}))
    zero = filled(client, 0.0)
    first, both = ({"recipe": Recipe(steps=steps)} for steps in (1, 2))
    without, with_term = (update_of([*each.train(train_task(files, **first), warm, zero)]) for each in (client, held))
    assert same(without.control_variate, with_term.control_variate)  # theta is where it started
    without, with_term = (update_of([*each.train(train_task(files, **both), warm, zero)]) for each in (client, held))
    assert not same(without.control_variate, with_term.control_variate)


def test_with_a_frozen_b_alone_is_corrected(client, files, warm):
    update = update_of([*client.train(train_task(files, freeze_a=True), warm, filled(client, 0.1, only="lora_B"))])
    assert update.control_variate
    assert all("lora_B" in name for name in update.control_variate)


def test_a_correction_that_lacks_a_tensor_fails_the_client_and_names_it(client, files, warm):
    with pytest.raises(ClientTrainingError, match=r"ValueError: the correction has no .*lora_A.*, which is trained"):
        list(client.train(train_task(files), warm, filled(client, 0.1, only="lora_B")))


def attack(name: str, files: tuple[str, ...]) -> AttackTask:
    probe = probe_files(load_probe(probe_folder(world_folder(0))))
    return AttackTask(name=name, config=AttackConfig(), cover=files, probe=probe)


@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if kind.behaves])
def test_every_attacker_sends_a_control_variate_that_is_admitted(client, files, warm, name):
    asked = train_task(files, attack=attack(name, files))
    control = update_of([*client.train(asked, warm, filled(client, 0.01))]).control_variate
    bound = CLIPPING_SLACK * TRAINING.max_grad_norm
    assert check_control_variate(control, client.layout().shapes, bound) is None
    assert any(bool(tensor.any()) for tensor in control.values()) == (name != "free_rider")


def test_an_attacker_that_changes_its_update_sends_what_its_training_gave(client, files, warm):
    honest = update_of([*client.train(train_task(files), warm, filled(client, 0.01))])
    flipped = update_of([*client.train(train_task(files, attack=attack("sign_flip", files)), warm, filled(client, 0.01))])
    assert same(flipped.control_variate, honest.control_variate)
    assert not same(flipped.tensors, honest.tensors)


def test_who_colludes_keeps_its_own_control_variate(client, files, warm):
    attacker = Attacker(client.layout(), "ipm", AttackConfig(), TRAINING.steps)
    attacker.begin(warm, 5)
    sent = {}
    for client_id in ("a", "b"):
        asked = replace(train_task(files, attack=attack("ipm", files)), client_id=client_id)
        sent[client_id] = [*client.train(asked, warm, filled(client, 0.01))][-1]
        attacker.receive(asked, sent[client_id])
    for client_id, update in sent.items():
        last_delta, made = attacker.messages(client_id)
        assert decode_message(last_delta, StepDelta).client_id == client_id
        assert same(decode_message(made, LoRAUpdate).control_variate, decode_message(update, LoRAUpdate).control_variate)
