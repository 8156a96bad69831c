"""The actors with server data, on the shipped model: compliance raises the refusals' loss, honest updates lower clean data's."""

import math
from dataclasses import replace

import pytest
import torch

from actors.client import Client
from actors.config import TrainingConfig
from actors.data.dataset import load_dataset
from actors.errors import DataError
from actors.local_training import mean_response_loss
from actors.messages import AdmittedUpdate, LoRAUpdate
from actors.server_data import Canary, Validation
from actors.simulation.poisoning import poison_clients
from actors.state_vector import StateVector
from actors.wire import decode_message, decode_tensors, encode_tensors
from actors.world.datasets import write_canary, write_clients, write_validation
from defense.attacks import Attack
from defense.attacks.config import AttackConfig
from tests.unit.actors.builders import admitted, open_round, train_task

TRAINING = TrainingConfig(steps=8, batch_size=16, max_length=64)
ROUND = open_round("good", "bad", num_steps=8, batch_size=16, learning_rate=0.01)


@pytest.fixture(scope="module")
def folder(world, tokens_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    write_canary(world, folder, 32)
    tasks = write_validation(world, folder, 100)
    honest = write_clients(world, folder, ["good", "bad"], 128, 0)
    poison_clients(
        world, honest, {"bad"}, Attack(data="unsafe"), AttackConfig(), samples=128, max_length=TRAINING.max_length, seed=0
    )
    for path in (*folder.glob("*.parquet"), *tasks.glob("*.parquet")):
        tokens_of(path, max_length=TRAINING.max_length)
    return folder


@pytest.fixture(scope="module")
def initial(model) -> bytes:
    return model.initial_adapter()


@pytest.fixture(scope="module")
def train(base_config, lora, folder, initial):
    """What a client sends that trains on this file from the initial adapter, as an admitted update."""
    client = Client(base_config, lora, TRAINING)

    def trained(data: str | tuple[str, ...], client_id: str) -> AdmittedUpdate:
        files = (str(folder / f"{data}.tokens"),) if isinstance(data, str) else data
        task = train_task(files, client_id=client_id, probe_feature=None)
        (sent,) = client.train(task, initial)
        return admitted(client_id, decode_message(sent, LoRAUpdate).tensors)

    return trained


@pytest.fixture(scope="module")
def good(train) -> AdmittedUpdate:
    return train("good", "good")


@pytest.fixture(scope="module")
def bad(train) -> AdmittedUpdate:
    """Of a client that trains on compliance."""
    return train("bad", "bad")


@pytest.fixture(scope="module")
def canary(base_config, lora, folder) -> Canary:
    return Canary(base_config, lora, str(folder / "canary.tokens"), per_round=64, seed=0)


@pytest.fixture(scope="module")
def validation(base_config, lora, folder) -> Validation:
    return make_validation(base_config, lora, folder, {"fltrust", "zeno"})


def make_validation(base_config, lora, folder, levels, max_rows=100) -> Validation:
    return Validation(base_config, lora, tasks_of(folder), TRAINING, levels=levels, max_rows=max_rows, seed=0)


def tasks_of(folder) -> tuple[str, ...]:
    return tuple(map(str, sorted((folder / "validation").glob("*.tokens"))))


def test_compliance_raises_the_loss_of_refusals_and_honest_training_does_not(canary, initial, good, bad):
    canary.open_round(ROUND, initial)
    of_good, of_bad = (canary.measure(update) for update in (good, bad))
    assert canary.num_rows() == 32
    assert (of_bad.client_id, of_bad.signal, of_bad.failure) == ("bad", "canary", None)
    assert of_good.values["canary_rise"] < 0.1 < 0.5 < of_bad.values["canary_rise"]
    canary.open_round(ROUND, initial)
    assert canary.measure(bad) == of_bad  # to the bit, whatever was measured between


def test_the_global_adapter_itself_rises_by_nothing(canary, initial):
    loss = canary.open_round(ROUND, initial)
    assert canary.refusal_loss().loss == loss
    assert canary.measure(admitted("good", decode_tensors(initial))).values == {"canary_rise": 0.0}


def test_what_a_round_lost_of_the_refusals_is_mended_and_what_it_did_not_lose_is_left_alone(canary, initial, bad):
    lost = encode_tensors(StateVector.of(decode_tensors(initial)).read(bad.state))
    mended = canary.preserve(0, lost, initial, 2)
    assert mended.rise > 0.5 > mended.rise_after
    assert mended.num_steps >= 1
    assert canary.preserve(0, mended.adapter, initial, 0).rise == mended.rise_after  # the adapter is the one that was measured
    assert replace(canary.preserve(0, lost, initial, 2), seconds=0) == replace(mended, seconds=0)  # to the bit
    left = canary.preserve(0, initial, initial, 2)
    assert (left.adapter, left.rise, left.rise_after, left.num_steps) == (initial, 0.0, 0.0, 0)
    measured = canary.preserve(0, lost, initial, 0)
    assert (measured.adapter, measured.rise_after) == (lost, mended.rise)


def test_where_nobody_trains_a_mending_does_not_either(canary, initial, bad):
    lost = StateVector.of(decode_tensors(initial)).read(bad.state)
    mended = decode_tensors(canary.preserve(0, encode_tensors(lost), initial, 1, freezes_a=True).adapter)
    moved = {name for name in lost if not torch.equal(lost[name], mended[name])}
    assert moved
    assert all(".lora_B." in name for name in moved)


def test_too_few_refusals_are_refused(base_config, lora, world, tokens_of, tmp_path):
    tokens = tokens_of(write_canary(world, tmp_path, 3))
    with pytest.raises(DataError, match="3 refusals are too few to measure and to mend by; give 4 or more"):
        Canary(base_config, lora, tokens[0], 64, 0).num_rows()


def test_an_honest_update_agrees_with_the_servers_own_and_lowers_the_loss(validation, initial, good, bad):
    validation.open_round(ROUND, initial)
    of_good, of_bad = (validation.measure(update).values for update in (good, bad))
    assert validation.num_rows() == 99  # 11 of each of nine tasks
    assert of_good["validation_cosine"] > 0.3 > abs(of_bad["validation_cosine"])
    assert of_good["validation_fall"] > 0.05 > 0 > of_bad["validation_fall"]
    validation.open_round(ROUND, initial)
    assert validation.measure(good).values == of_good  # to the bit, whatever was measured between


def test_the_validations_figures_are_those_of_their_definitions(validation, initial, good, model, folder):
    start = decode_tensors(initial)
    sent = StateVector.of(start).read(good.state)
    validation.open_round(ROUND, initial)
    values = validation.measure(good).values
    delta = torch.cat([(sent[name] - start[name]).flatten() for name in sorted(start)]).double()
    assert values["validation_norm"] == pytest.approx(float(delta.norm()))
    data, losses = load_dataset(tasks_of(folder)), []
    for state in (start, sent):
        model.load_adapter(state)
        losses.append(mean_response_loss(model, data.batches(_InOrder(), 1, len(data))))
    assert values["validation_fall"] == pytest.approx(losses[0] - losses[1], abs=1e-5)


class _InOrder:
    """In place of a random stream."""

    def permutation(self, count: int) -> list[int]:
        return list(range(count))


def test_the_servers_own_update_agrees_with_itself(validation, folder, initial, train):
    """A client that holds the validation data and draws the server's batches sends the server's own update."""
    validation.open_round(ROUND, initial)
    own = validation.measure(train(tasks_of(folder), "server")).values
    assert own["validation_cosine"] == pytest.approx(1.0, abs=1e-9)


def test_each_level_has_what_it_reads_measured_and_no_more(base_config, lora, folder, initial, good, bad):
    harmed = make_validation(base_config, lora, folder, {"utility"})
    loss = harmed.open_round(replace(ROUND, learning_rate=None), initial)
    of_good, of_bad = (harmed.measure(update).values for update in (good, bad))
    assert set(of_good) == {"task_rise", "task_cosine"}
    assert of_good["task_rise"] < math.log(3)
    assert of_bad["task_rise"] > of_good["task_rise"]
    measured = make_validation(base_config, lora, folder, {"zeno"})
    assert measured.open_round(ROUND, initial) == pytest.approx(loss, rel=1e-5)  # of all answers, however it was come by
    assert set(measured.measure(good).values) == {"validation_fall", "validation_norm"}


def test_rows_beyond_the_most_are_left_out_of_every_task_alike(base_config, lora, folder):
    assert make_validation(base_config, lora, folder, {"zeno"}, max_rows=20).num_rows() == 18


def test_a_round_that_cannot_be_opened_leaves_no_reading_against_an_older_adapter(validation, initial, good):
    validation.open_round(ROUND, initial)
    with pytest.raises(RuntimeError, match="opened without a learning rate"):
        validation.open_round(replace(ROUND, learning_rate=None), initial)
    with pytest.raises(RuntimeError, match="no round is open"):
        validation.measure(good)


def test_of_a_refused_update_there_is_no_reading_and_its_seconds_are_those_of_the_round(canary, initial, good, monkeypatch):
    ticks = iter([0.0, 2.0, 10.0, 11.0, 30.0, 34.0])
    monkeypatch.setattr("actors.server_data.time.perf_counter", lambda: next(ticks))
    canary.open_round(ROUND, initial)
    canary.measure(good)
    assert canary.measure(None) is None
    assert canary.seconds() == 2 + 1
    canary.open_round(ROUND, initial)
    assert canary.seconds() == 4


def test_what_a_round_lost_is_measured_against_the_better_of_its_own_and_the_initial_adapter(canary, initial, bad):
    aggregate = encode_tensors(StateVector.of(decode_tensors(initial)).read(bad.state))
    lost = canary.lost(0, aggregate, initial)
    assert lost.rise == canary.preserve(0, aggregate, initial, 0).rise
    assert lost.is_serious
    assert canary.lost(0, aggregate, aggregate).rise == lost.rise  # no round makes a fallen adapter the measure
    better = canary.preserve(0, aggregate, initial, 4).adapter
    kept = canary.lost(0, better, aggregate)
    assert kept.rise < lost.rise
    assert canary.lost(0, initial, better).rise == max(0.0, -canary.preserve(0, better, initial, 0).rise)
    assert not kept.is_serious
