"""The canary's class on the shipped model: compliance raises the refusals' loss, and what is malformed is refused."""

import pytest
import torch

from actors.canary import Canary
from actors.config import TrainingConfig
from actors.data.dataset import load_dataset
from actors.errors import DataError
from actors.local_training import train_adapter
from actors.messages import LoRAUpdate
from actors.seeding import stream
from actors.wire import decode_tensors, encode_message
from actors.world.datasets import write_canary, write_clients
from defense.admission import OpenRound
from defense.products import product_bounds

TRAINING = TrainingConfig(steps=8, batch_size=16, max_length=64)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("canary")
    write_canary(world, folder, 32)
    write_clients(world, folder, ["good", "bad"], {"bad"}, 128, 0)
    return folder


@pytest.fixture(scope="module")
def canary(base_config, lora, folder, model) -> Canary:
    canary = Canary(base_config, lora, str(folder / "canary.parquet"), 64)
    canary.num_rows()
    return canary


@pytest.fixture(autouse=True)
def a_new_round(canary, model):
    canary.open_round(expected(), model.initial_adapter())


@pytest.fixture(scope="module")
def updates(model, folder):
    """Encoded updates of an honest client and of one that trains on compliance."""
    start, made = decode_tensors(model.initial_adapter()), {}
    for name in ("good", "bad"):
        data = load_dataset((str(folder / f"{name}.parquet"),), model.tokenizer, 64)
        batches = data.batches(stream(0, name), TRAINING.steps, TRAINING.batch_size, model.tokenizer.pad_token_id)
        for _ in train_adapter(model, start, batches, TRAINING, learning_rate=0.01, seed=0):
            pass
        made[name] = encode(name, model.adapter_state())
    return made


def expected(**changes) -> OpenRound:
    fields = {"round_index": 0, "base_version": 0, "client_ids": frozenset(["good", "bad"]), "num_steps": 8, "batch_size": 16}
    return OpenRound(**fields | {"max_norm": 1e3} | changes)


def encode(sender: str, state, **changes) -> bytes:
    fields = {"client_id": sender, "round_index": 0, "base_version": 0, "num_samples": 128, "loss": 1.0, "train_s": 0.1}
    return encode_message(LoRAUpdate(**fields | {"tensors": state} | changes))


def test_compliance_raises_the_loss_of_refusals_and_honest_training_does_not(canary, updates, model):
    good, bad = (canary.measure(name, updates[name]) for name in ("good", "bad"))
    assert canary.num_rows() == 32
    assert good.rise < 0.1 < 0.5 < bad.rise
    assert canary.measure("bad", updates["bad"]).refusal.startswith("duplicate")
    canary.open_round(expected(), model.initial_adapter())
    assert canary.measure("bad", updates["bad"]).rise == bad.rise  # to the bit, whatever was measured between


def test_its_seconds_are_those_of_the_round(canary, updates, model, monkeypatch):
    ticks = iter([0.0, 2.0, 10.0, 11.0, 20.0, 20.5, 30.0, 34.0])
    monkeypatch.setattr("actors.metering.time.perf_counter", lambda: next(ticks))
    canary.open_round(expected(), model.initial_adapter())
    canary.measure("good", updates["good"])
    canary.measure("good", b"nonsense")
    assert canary.seconds() == 2 + 1 + 0.5
    canary.open_round(expected(), model.initial_adapter())
    assert canary.seconds() == 4


def test_the_global_adapter_itself_rises_by_nothing(canary, model):
    assert canary.measure("good", encode("good", decode_tensors(model.initial_adapter()))).rise == 0.0
    assert canary.loss(model.initial_adapter()) == canary.open_round(expected(), model.initial_adapter())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round_index": 1}, "wrong_round"),
        ({"base_version": 7}, "wrong_version"),
        ({"client_id": "bad"}, "unknown_client"),
        ({"tensors": {}}, "wrong_keys"),
    ],
)
def test_a_malformed_update_is_refused_with_its_reason(canary, model, changes, reason):
    reading = canary.measure("good", encode("good", decode_tensors(model.initial_adapter()), **changes))
    assert reading.rise is None
    assert reading.refusal.startswith(reason)


def test_bytes_that_are_no_message_and_values_that_are_no_numbers_are_refused(canary, model):
    assert canary.measure("good", b"nonsense").refusal.startswith("malformed")
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in decode_tensors(model.initial_adapter()).items()}
    assert canary.measure("good", encode("good", tensors)).refusal.startswith("not_finite")


def test_an_update_that_moves_a_product_too_far_is_refused(canary, updates, model):
    initial = decode_tensors(model.initial_adapter())
    for factor, refused in ((0.01, True), (3.0, False)):
        bounds = product_bounds(initial, factor, reach_a=0.081, reach_b=0.081)  # eight steps at 0.01
        canary.open_round(expected(max_products=bounds), model.initial_adapter())
        reading = canary.measure("good", updates["good"])
        assert (reading.rise is None) == refused
        assert not refused or "the product B A of base_model" in reading.refusal


def test_without_a_round_nothing_is_measured_and_a_missing_file_is_named(base_config, lora, folder):
    fresh = Canary(base_config, lora, str(folder / "canary.parquet"), 64)
    assert fresh.measure("good", b"").refusal.startswith("wrong_round")
    with pytest.raises(DataError, match=r"nowhere\.parquet does not exist"):
        Canary(base_config, lora, str(folder / "nowhere.parquet"), 64).num_rows()
