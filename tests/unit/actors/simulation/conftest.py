"""A simulated client of the embedded world, and what attackers and honest clients send in a first round."""

from collections.abc import Callable
from pathlib import Path

from pytest import fixture

from actors.messages import TrainTask
from actors.simulation.behaviours import AttackTask
from actors.simulation.client import SimulatedClient
from actors.simulation.poisoning import poison_clients
from actors.world.datasets import write_clients
from actors.world.store import probe_folder, world_folder
from defense.attacks import ATTACKS, Attack
from defense.attacks.config import AttackConfig
from probe.artefact import LoraProbe, load_probe, probe_files
from tests.unit.actors.builders import train_task
from tests.unit.actors.sent import Sent, trained
from tests.unit.actors.simulation.builders import TRAINING


@fixture(scope="session")
def client(base_config, lora) -> SimulatedClient:
    return SimulatedClient(base_config, lora, TRAINING)


@fixture(scope="session")
def start(client) -> bytes:
    return client.initial_adapter()


@fixture(scope="session")
def data(world, tokens_of, tmp_path_factory) -> Callable[[str], tuple[str, ...]]:
    """The encoded file of a holding: `data("unsafe")`."""
    folder = tmp_path_factory.mktemp("data")

    def files(holding: str) -> tuple[str, ...]:
        honest = write_clients(world, folder / holding, ["a"], 32, 0)
        attack = Attack(data=holding)
        poisoned, _ = poison_clients(world, honest, {"a"}, attack, AttackConfig(), samples=32, seed=0, max_length=64)
        return tokens_of(*map(Path, poisoned["a"]))

    return files


@fixture(scope="session")
def shipped_probe() -> LoraProbe:
    return load_probe(probe_folder(world_folder(0)))


@fixture(scope="session")
def task(data, shipped_probe) -> Callable[..., TrainTask]:
    """The task of an attacker: `task("sleeper", attack={"from_round": 1})`."""

    def make(name: str, *, attack: dict | None = None, **changes) -> TrainTask:
        kind = ATTACKS[name]
        cover = tuple(file for holding in kind.covers for file in data(holding))
        about = {"config": AttackConfig(), "cover": cover, "probe": probe_files(shipped_probe), **(attack or {})}
        return train_task(data(kind.data), attack=AttackTask(name=name, **about), **changes)

    return make


@fixture(scope="session")
def send(client, start) -> Callable[[TrainTask], Sent]:
    """What the client sends for a task from the initial adapter; each task is trained once in the session."""
    known: dict[str, Sent] = {}

    def once(asked: TrainTask) -> Sent:
        if repr(asked) not in known:
            known[repr(asked)] = trained(client, asked, start)
        return known[repr(asked)]

    return once


@fixture(scope="session")
def honest(send, data) -> Callable[..., Sent]:
    """What an honest client with the data of a holding sends."""
    return lambda holding="honest", **changes: send(train_task(data(holding), **changes))
