"""`safe-fedllm world build`: base model and probes of an embedded world; a missing world is built before a run.

Heavy imports stand in the functions that build, because every command asks here whether its world exists.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from actors.world.store import base_folder, is_built, live_probe_folder, probe_folder, world_folder, write_manifest
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

_BUILD_THREADS = 2
_PARTS = ("all", "base", "probe")
_LIVE_PROBE = {"feature": "per_layer", "threshold": 0.6}
"""Level live reads A and B of every layer, so that poison does not hide behind an honest first layer. The threshold lies between
the scores at the embedded world's learning rate: 3 of 730 honest updates of world 3 were above it (28 above 0.5), none in world
2, where canary-aware updates began at 0.58. At the paper's 0.8 canary-aware updates had weight 0.23, at 0.65 weight 0.10 (one
seed; docs/results.md)."""


def ensure_world(config: RunConfig, console: Console) -> None:
    """Build the run's embedded world first where this machine does not have it yet."""
    if config.is_embedded and config.world.path is None and not is_built(world_folder(config.world.seed)):
        console.print(f"World {config.world.seed} is not on this machine yet; building it once, a few minutes on two cores.")
        build_world(config, None, "all", console)


def build_world(config: RunConfig, output: Path | None, part: str, console: Console) -> Path:
    """Build base model and probes of `config.world.seed` into `output` or their usual place.

    The folder appears whole or not at all: it is built beside its place and moved there.

    Raises:
        ConfigError: an unknown part, or the probe is asked for and there is no base model.
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
        versions = {package: version(package) for package in ("torch", "transformers", "tokenizers", "peft")}
        about = {"schema_version": 1, "seed": config.world.seed, "base": config.world.base.model_dump(), "versions": versions}
        write_manifest(building, about)
        if part != "base":
            _build_probes(config, building, console)
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


def _build_probes(config: RunConfig, folder: Path, console: Console) -> None:
    """Collect from the collection families, train both probes, and measure them on the probe_test families."""
    from cluster.probes.collect import collect_samples
    from cluster.probes.evaluate import headline, measure
    from cluster.probes.train import read_features
    from cluster.ray_connection.session import ray_session
    from cluster.reporting.progress import CollectionLines
    from probe.artefact import LoraProbe, save_probe
    from probe.training import blocks_of, train_probe

    config = config.model_copy(update={"world": config.world.model_copy(update={"path": str(folder)})})
    stores = {}
    with tempfile.TemporaryDirectory() as scratch, ray_session(config.cluster.address):
        for role, clients in (("collection", config.collect.clients), ("probe_test", max(2, config.collect.clients // 2))):
            collect = config.collect.model_copy(update={"role": role, "clients": clients, "modules": "all"})
            part = config.model_copy(update={"collect": collect})
            stores[role] = collect_samples(part, Path(scratch) / role, CollectionLines(console.print))
        live = config.probe.model_copy(update=_LIVE_PROBE)
        for name, settings, place in (("probe", config.probe, probe_folder), ("probe of level live", live, live_probe_folder)):
            samples = read_features(stores["collection"], blocks_of(settings, stores["collection"].meta))
            probe = train_probe(samples, stores["collection"].meta, settings)
            figures = headline(measure(probe, stores["probe_test"]).report)
            metrics = {"on": f"probe_test families of world {config.world.seed}", **figures}
            save_probe(place(folder), LoraProbe(dataclasses.replace(probe.meta, metrics=metrics), probe.classifier))
            shown = {figure: round(value, 4) for figure, value in figures.items()}
            console.print(f"{name} on families it never saw: {shown}")
