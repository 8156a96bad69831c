"""The validation's class on the shipped model: honest updates point where the server's own does and lower the loss."""

import math

import pytest
import torch

from actors.client import Client
from actors.config import TrainingConfig
from actors.data.dataset import load_dataset
from actors.local_training import mean_response_loss
from actors.messages import LoRAUpdate, TrainTask
from actors.validation import Validation
from actors.wire import decode_message, decode_tensors
from actors.world.datasets import write_clients, write_validation
from defense.admission import OpenRound

TRAINING = TrainingConfig(steps=8, batch_size=16, max_length=64)
RATE = 0.01


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    write_validation(world, folder, 100)
    write_clients(world, folder, ["good", "bad"], {"bad"}, 128, 0)
    return folder


@pytest.fixture(scope="module")
def path(folder) -> str:
    return str(folder / "validation.parquet")


@pytest.fixture(scope="module")
def updates(base_config, lora, folder, model):
    """What an honest client and one that trains on compliance send, from the initial adapter."""
    client, sent = Client(base_config, lora, TRAINING), {}
    for name in ("good", "bad"):
        files = (str(folder / f"{name}.parquet"),)
        task = TrainTask(
            client_id=name, round_index=0, base_version=0, files=files, learning_rate=RATE, seed=0, probe_feature=None
        )
        *_, sent[name] = client.train(task, model.initial_adapter())
    return sent


def expected(**changes) -> OpenRound:
    fields = {"round_index": 0, "base_version": 0, "client_ids": frozenset(["good", "bad"]), "num_steps": 8, "batch_size": 16}
    return OpenRound(**fields | {"max_norm": 1e3, "learning_rate": RATE} | changes)


@pytest.fixture(scope="module")
def validation(base_config, lora, path) -> Validation:
    return Validation(base_config, lora, path, TRAINING, seed=0, trains=True)


def test_an_honest_update_agrees_with_the_servers_own_and_lowers_the_loss(validation, updates, model):
    validation.open_round(expected(), model.initial_adapter())
    good, bad = (validation.measure(name, updates[name]) for name in ("good", "bad"))
    assert validation.num_rows() == 100
    assert good.cosine > 0.3 > abs(bad.cosine)
    assert good.fall > 0.05 > 0 > bad.fall


def test_its_figures_are_those_of_their_definitions(validation, updates, model, path):
    initial, sent = decode_tensors(model.initial_adapter()), decode_message(updates["good"], LoRAUpdate).tensors
    validation.open_round(expected(), model.initial_adapter())
    reading = validation.measure("good", updates["good"])
    delta = torch.cat([(sent[name] - initial[name]).flatten() for name in sorted(initial)]).double()
    assert reading.norm == pytest.approx(float(delta.norm()))
    data, losses = load_dataset((path,), model.tokenizer, 64), []
    for state in (initial, sent):
        model.load_adapter(state)
        pad_id = model.tokenizer.pad_token_id
        losses.append(mean_response_loss(model, data.batches(_InOrder(), 1, len(data.examples), pad_id)))
    assert reading.fall == pytest.approx(losses[0] - losses[1], abs=1e-5)


class _InOrder:
    """In place of a random stream."""

    def permutation(self, count: int) -> list[int]:
        return list(range(count))


def test_the_servers_own_update_agrees_with_itself(base_config, lora, path, model):
    """A client that holds the validation data and draws the server's batches sends the server's own update."""
    task = TrainTask(
        client_id="server", round_index=0, base_version=0, files=(path,), learning_rate=RATE, seed=0, probe_feature=None
    )
    *_, update = Client(base_config, lora, TRAINING).train(task, model.initial_adapter())
    validation = Validation(base_config, lora, path, TRAINING, seed=0, trains=True)
    validation.open_round(expected(client_ids=frozenset(["server"])), model.initial_adapter())
    assert validation.measure("server", update).cosine == pytest.approx(1.0, abs=1e-9)


def test_a_round_is_measured_alike_whatever_came_before(validation, updates, model):
    readings = []
    for _ in range(2):
        validation.open_round(expected(), model.initial_adapter())
        readings.append(validation.measure("good", updates["good"]))
    assert readings[0] == readings[1]


def test_a_round_that_cannot_be_opened_leaves_no_reading_against_an_older_one(validation, updates, model, monkeypatch):
    validation.open_round(expected(), model.initial_adapter())

    def fail(_):
        raise FloatingPointError("the training loss became nan")

    monkeypatch.setattr(validation, "_trained", fail)
    with pytest.raises(FloatingPointError):
        validation.open_round(expected(), model.initial_adapter())
    reading = validation.measure("good", updates["good"])
    assert (reading.cosine, reading.fall) == (None, None)
    assert reading.refusal.startswith("wrong_round: no round is open")


def test_without_training_there_is_no_cosine_and_what_is_no_update_is_refused(
    base_config, lora, path, updates, validation, model
):
    untrained = Validation(base_config, lora, path, TRAINING, seed=0, trains=False)
    untrained.open_round(expected(learning_rate=None), model.initial_adapter())
    assert untrained.measure("good", updates["good"]).cosine is None
    validation.open_round(expected(max_norm=math.inf), model.initial_adapter())
    assert validation.measure("good", b"nonsense").refusal.startswith("malformed")
