"""The bounds of admission with a real client of the embedded world that trains faster than it was asked to."""

import pytest

from actors.aggregator import Aggregator, AggregatorConfig
from actors.client import Client
from actors.config import Recipe, TrainingConfig
from actors.messages import TrainTask
from actors.world.datasets import write_clients
from defense.config import AdmissionConfig, DefenseConfig

TRAINING = TrainingConfig(max_length=64, learning_rate=0.01)


@pytest.fixture(scope="module")
def client(base_config, lora) -> Client:
    return Client(base_config, lora, TRAINING)


@pytest.fixture(scope="module")
def files(world, tmp_path_factory) -> tuple[str, ...]:
    return write_clients(world, tmp_path_factory.mktemp("data"), ["a"], set(), 160, 0)["a"]


@pytest.fixture(scope="module")
def updates(client, files) -> dict[float, bytes]:
    """Factor of the asked learning rate -> the encoded update of the first round."""

    def train(factor: float) -> bytes:
        task = TrainTask(
            client_id="a",
            round_index=0,
            base_version=0,
            files=files,
            learning_rate=0.01,
            seed=0,
            probe_feature=None,
            recipe=Recipe(learning_rate_factor=factor),
        )
        return list(client.train(task, client.initial_adapter()))[-1]

    return {factor: train(factor) for factor in (1.0, 2.0, 3.0)}


def answer(client: Client, update: bytes, **admission) -> str | None:
    config = AggregatorConfig(training=TRAINING, defense=DefenseConfig(level="none"), admission=AdmissionConfig(**admission))
    made = Aggregator(config, client.layout(), client.initial_adapter())
    made.open_round(0, ["a"], 0.01)
    return made.submit("a", update, None, []).reason


def test_a_client_at_twice_the_asked_rate_is_admitted_and_one_at_three_times_is_not(client, updates):
    assert answer(client, updates[1.0]) is None
    assert answer(client, updates[2.0]) is None
    assert answer(client, updates[3.0]).startswith("norm_exceeded: a value of")


def test_an_honest_product_is_three_times_smaller_than_its_bound_and_more(client, updates):
    unbounded = {"value_factor": None, "product_factor": AdmissionConfig().product_factor / 3}
    assert answer(client, updates[1.0], **unbounded) is None
    assert answer(client, updates[2.0], **unbounded) is None
    assert "the product B A of" in answer(client, updates[2.0], value_factor=None, product_factor=0.3)
