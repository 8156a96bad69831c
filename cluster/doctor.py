"""`safe-fedllm doctor`: what a run needs and whether this machine or cluster has it, a line per check."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from rich.console import Console

from actors.errors import SafeFedError
from cluster.config import RunConfig
from cluster.crew import load_probe_meta
from cluster.placement import plan_placement
from cluster.session import ray_session
from cluster.sources import prepare_sources

_PACKAGES = ("ray", "torch", "transformers", "peft", "safetensors", "xgboost", "pyarrow")


def diagnose(config: RunConfig, console: Console) -> bool:
    """Print a line per check and return whether all passed. Starts Ray, no actor, and loads no model."""
    healthy = True
    for name, check in _checks(config):
        try:
            console.print(f"[green]ok[/green]    {name}: {check()}", soft_wrap=True)
        except (SafeFedError, importlib.metadata.PackageNotFoundError) as error:
            healthy = False
            console.print(f"[red]wrong[/red] {name}: {error}", soft_wrap=True)
    return healthy


def _checks(config: RunConfig) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "versions", _versions
    yield "model, data, prompts and probe", lambda: _inputs(config)
    yield "cluster", lambda: _cluster(config)


def _versions() -> str:
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)


def _inputs(config: RunConfig) -> str:
    with tempfile.TemporaryDirectory() as folder:
        sources = prepare_sources(config, Path(folder))
        meta = load_probe_meta(config, sources)
    probe = f"probe {meta.feature} at threshold {config.probe.threshold or meta.threshold:g}" if meta else "no probe"
    return f"{sources.model.path}, {len(sources.files)} clients, {probe}"


def _cluster(config: RunConfig) -> str:
    with ray_session(config.cluster.address):
        resources = ray.cluster_resources()
        placement = plan_placement(config, resources, config.model)
        memory = resources.get("memory", 0) / 2**30
        return (
            f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {memory:.1f} GiB for actors; "
            f"a run would start {placement.num_client_actors} client actors, {config.clients.clients_per_round} clients a round"
        )
