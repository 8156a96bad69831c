"""cluster/round/realignment.py on actors that train without a model: what they are asked, and what becomes of failures."""

import os
import signal
from pathlib import Path

import pytest
import ray
import torch

from actors.errors import ClientTrainingError
from actors.messages import LoRAUpdate, TrainTask
from actors.wire import decode_tensors, encode_message, encode_tensors
from cluster.config.loading import load_config
from cluster.errors import ClusterError
from cluster.round.realignment import realign
from cluster.workers.pool import ClientPool, Starting


@ray.remote(num_cpus=0)
class Trainer:
    """Adds steps x rate to the adapter. The first of its files says what goes wrong, and how often."""

    def train(self, task: TrainTask, adapter: bytes, difference: bytes | None):
        kind, _, folder = task.files[0].partition(":")
        if kind == "raises":
            raise ClientTrainingError("ValueError: no rows\ntraceback")
        if kind == "dies" or (kind == "dies once" and not (Path(folder) / "died").exists()):
            if folder:
                (Path(folder) / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        moved = {name: tensor + task.num_steps * task.learning_rate for name, tensor in decode_tensors(adapter).items()}
        common = {"client_id": task.client_id, "round_index": task.round_index, "base_version": task.base_version}
        yield encode_message(LoRAUpdate(num_samples=8, loss=1.0, train_s=0.1, tensors=moved, **common))

    def silent(self):
        return None


@pytest.fixture(scope="module")
def pool(local_ray):
    def start() -> Starting:
        actor = Trainer.remote()
        return Starting(actor, actor.silent.remote())

    made = ClientPool(start, 1)
    yield made
    made.close()


def realigned(pool, how: str, *overrides: str) -> float:
    """The one value of an adapter that was 1."""
    config = load_config(None, ["realignment.steps=4", "cluster.round_attempts=2", *overrides])
    adapter = encode_tensors({"lora_A": torch.ones(1)})
    return decode_tensors(realign(config, (how,), pool, adapter))["lora_A"].item()


def test_the_last_rounds_rate_holds_unless_another_is_set(pool):
    assert realigned(pool, "well") == pytest.approx(1 + 4 * 0.001)
    assert realigned(pool, "well", "realignment.learning_rate=0.25") == 2.0


def test_an_actor_that_dies_is_replaced_and_asked_again(pool, tmp_path):
    assert realigned(pool, f"dies once:{tmp_path}") == pytest.approx(1.004)


@pytest.mark.parametrize(("how", "why"), [("raises", "ValueError: no rows"), ("dies", "client_lost: ")])
def test_what_cannot_be_realigned_ends_the_run_and_says_how_to_go_on(pool, how, why):
    with pytest.raises(ClusterError, match=f"realigning the final adapter: {why}.*go on with: safe-fedllm run --resume"):
        realigned(pool, how)
