"""A client whose gradients are corrected by SCAFFOLD, down to the training loop."""

import pytest
import torch

from actors.client import Client
from actors.config import LoraConfig, Recipe, TrainingConfig
from actors.data.encoding import IGNORED
from actors.errors import ClientTrainingError
from actors.local_training import response_loss_sum
from actors.simulation.client import SimulatedClient
from actors.wire import decode_tensors, encode_tensors
from tests.unit.actors.builders import train_task
from tests.unit.actors.sent import equal, trained

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


def correction(client: Client, value: float, *, only: str = "lora_") -> bytes:
    """c - c_i of the trained parameters, everywhere this value."""
    shapes = client.layout().shapes
    return encode_tensors({name: torch.full(shape, value) for name, shape in shapes.items() if only in name})


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


def test_a_correction_of_zero_trains_as_without_to_the_bit_and_the_shadow_is_never_corrected(client, files, warm):
    asked = train_task(files, **SHADOWED)
    plain, zero, other = (
        trained(client, asked, warm, difference) for difference in (None, correction(client, 0.0), correction(client, 0.3))
    )
    assert zero.payloads[:-1] == plain.payloads[:-1]
    assert equal(zero.update.tensors, plain.update.tensors)
    assert plain.update.control_variate is None
    assert set(zero.update.control_variate) == set(client.layout().shapes)
    assert other.payloads[:3] == plain.payloads[:3]
    assert other.payloads[3] != plain.payloads[3]


def test_the_control_variate_is_the_mean_of_the_clipped_gradients_before_correction(client, files, warm):
    """At a learning rate of next to nothing every step's gradient is that at the start, and a correction cannot change it."""
    control = trained(client, train_task(files, learning_rate=1e-12), warm, correction(client, 5.0)).update.control_variate
    found = clipped_gradients(client, warm, files)
    for name, tensor in control.items():
        torch.testing.assert_close(tensor.double(), sum(each[name] for each in found) / 3, rtol=1e-3, atol=1e-7)


def test_the_correction_is_added_to_the_gradient_that_the_optimizer_takes(base_config, lora, files, warm):
    """A step of plain gradient descent moves by the learning rate times (g + correction), and does not clip it again."""
    client = SimulatedClient(base_config, lora, TRAINING)
    one_step = train_task(files, recipe=Recipe(steps=1, optimizer="sgd"), learning_rate=0.1)
    plain, corrected = (trained(client, one_step, warm, correction(client, value)).update for value in (0.0, 2.0))
    for name, tensor in plain.tensors.items():
        torch.testing.assert_close(corrected.tensors[name], tensor - 0.1 * 2.0, rtol=0, atol=1e-6)
    assert equal(corrected.control_variate, plain.control_variate)


def test_the_proximal_term_is_part_of_the_control_variate(base_config, lora, client, files, warm):
    held, zero = Client(base_config, lora, TRAINING.model_copy(update={"proximal_mu": 0.01})), correction(client, 0.0)
    for num_steps, same in ((1, True), (2, False)):  # at the first step theta is where it started
        asked = train_task(files, num_steps=num_steps)
        without, with_term = (trained(each, asked, warm, zero).update.control_variate for each in (client, held))
        assert equal(without, with_term) == same


def test_with_a_frozen_b_alone_is_corrected(client, files, warm):
    asked = train_task(files, freeze_a=True)
    control = trained(client, asked, warm, correction(client, 0.1, only="lora_B")).update.control_variate
    assert control
    assert all("lora_B" in name for name in control)


def test_a_correction_that_lacks_a_tensor_fails_the_client_and_names_it(client, files, warm):
    with pytest.raises(ClientTrainingError, match=r"ValueError: the correction has no .*lora_A.*, which is trained"):
        list(client.train(train_task(files), warm, correction(client, 0.1, only="lora_B")))
