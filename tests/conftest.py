"""What all tests share: one local Ray per process, and small things made from the shipped world."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import ray
import torch
from pytest import fixture

from actors.config import LoraConfig, ModelConfig
from actors.model.adapted import AdaptedModel
from actors.world.generator import World
from actors.world.store import base_folder, world_folder

_VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the suite is the same everywhere: placements and bits are those of CPUs
torch.set_num_threads(1)


@fixture
def visible_gpus(monkeypatch):
    """The machine's GPUs, visible again to the processes that a test starts."""
    if _VISIBLE_GPUS is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", _VISIBLE_GPUS)


@fixture(scope="session")
def local_ray():
    """One Ray for all tests of a process (`make test` has two), as a person's own `ray.init()` would give."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@fixture(scope="session")
def world() -> World:
    return World(0)


@fixture(scope="session")
def base_config() -> ModelConfig:
    return ModelConfig(path=str(base_folder(world_folder(0))))


@fixture(scope="session")
def lora() -> LoraConfig:
    """The LoRA settings that the shipped probe was made for."""
    return LoraConfig(target_modules="all-linear")


@fixture(scope="session")
def model(base_config, lora) -> AdaptedModel:
    """The shipped base model with its LoRA; tests load their own adapter state before they use it."""
    return AdaptedModel(base_config, lora, torch.device("cpu"))
