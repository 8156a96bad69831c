"""Building embedded worlds from the command line, and building a missing one before a run.

What builds is imported when something is built: every command asks here whether its world exists.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from actors.config import ModelConfig
from actors.world.store import base_folder, is_built, probe_folder, world_folder, write_manifest
from cluster.config import RunConfig
from cluster.errors import ConfigError

_BUILD_THREADS = 2
_PARTS = ("all", "base", "probe")


def ensure_world(config: RunConfig, console: Console) -> None:
    """Build the run's world first when it is an embedded one that this machine does not have yet."""
    if config.is_embedded and config.world.path is None and not is_built(world_folder(config.world.seed)):
        console.print(f"World {config.world.seed} is not on this machine yet; building it once, a few minutes on two cores.")
        build_world(config, None, "all", console)


def build_world(config: RunConfig, output: Path | None, part: str, console: Console) -> Path:
    """Build base model and probe of `config.world.seed` into `output` or their usual place.

    The folder appears whole or not at all: it is built beside its place and moved there.

    Raises:
        ConfigError: unknown part, or a probe asked for where there is no base model.
    """
    if part not in _PARTS:
        raise ConfigError(f"--part {part} is not among {_PARTS}")
    folder = output or (Path(config.world.path) if config.world.path else world_folder(config.world.seed))
    folder.parent.mkdir(parents=True, exist_ok=True)
    if part == "probe" and not is_built(folder):
        raise ConfigError(f"--part probe needs the base model in {folder}; build all of it first")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        building = Path(scratch) / folder.name
        if folder.exists():
            shutil.copytree(folder, building)
        building.mkdir(exist_ok=True)
        if part != "probe":
            _build_base(config, building, console)
        if part != "base":
            _build_probe(config, building, console)
        write_manifest(building, _manifest(config))
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    console.print(f"World {config.world.seed}: {folder}", soft_wrap=True)
    return folder


def _build_base(config: RunConfig, folder: Path, console: Console) -> None:
    import torch

    from actors.world.generator import World
    from actors.world.pretraining import build_base

    torch.set_num_threads(_BUILD_THREADS)

    def report(step: int, steps: int, loss: float) -> None:
        if step % 200 == 1 or step == steps:
            console.print(f"base model: step {step} of {steps}, loss {loss:.3f}")

    model, tokenizer = build_base(World(config.world.seed), config.world.base, report)
    model.save_pretrained(base_folder(folder))
    tokenizer.save_pretrained(base_folder(folder))


def _build_probe(config: RunConfig, folder: Path, console: Console) -> None:
    import torch

    from actors.model import AdaptedModel
    from actors.world.generator import World
    from actors.world.reference_probe import build_probe
    from probe.artefact import save_probe

    torch.set_num_threads(config.training.num_threads)
    model = AdaptedModel(ModelConfig(path=str(base_folder(folder))), config.lora, torch.device("cpu"))
    training = config.training.model_copy(update={"learning_rate": config.defense.shadow.learning_rate})

    def report(done: int, total: int) -> None:
        if done % 12 == 0:
            console.print(f"probe: {done} of {total} reference clients")

    probe = build_probe(World(config.world.seed), model, training, config.world.probe_clients, report)
    save_probe(probe_folder(folder), probe)
    figures = {name: round(value, 4) for name, value in probe.meta.metrics.items() if isinstance(value, float)}
    console.print(f"probe on families it never saw: {figures}")


def _manifest(config: RunConfig) -> dict:
    return {
        "schema_version": 1,
        "seed": config.world.seed,
        "base": config.world.base.model_dump(),
        "versions": {package: version(package) for package in ("torch", "transformers", "tokenizers", "peft")},
    }
