"""Builders for runs on the embedded world that are small enough for a test."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from pytest import fixture
from safetensors.torch import load, save

from actors.world.store import world_folder
from cluster import Federation, RunResult, load_config
from probe.artefact import load_probe, save_probe
from probe.classifiers import CLASSIFIERS

SMALL = (
    "rounds=2",
    "defense.level=shadow",
    "clients.count=4",
    "clients.malicious=1",
    "training.steps=3",
    "training.batch_size=8",
    "data.samples_per_client=40",
    "evaluation.max_restricted=0",
    "evaluation.max_benign=0",
    "cluster.client_actors=1",  # actors start in seconds each, which is most of a small run
)
MEASURED = ("evaluation.max_restricted=60", "evaluation.max_benign=60")
"""For tests that look at what the model answers; the others load no model for it."""


def forget_round(run: Path, rounds_done: int) -> None:
    """Remove the checkpoints of a round: the run is as if killed before it was committed."""
    for folder in run.glob(f"checkpoints/round-{rounds_done:05d}*"):
        shutil.rmtree(folder)


@fixture(scope="session")
def finished_run(local_ray, tmp_path_factory):
    """Small runs for tests that only look at them: `finished_run("rounds=1")`. Each is made once for all processes of pytest."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def run(*overrides: str) -> RunResult:
        path = folder / f"run-{hashlib.sha256(' '.join(overrides).encode()).hexdigest()[:12]}"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                Federation(load_config(None, [*SMALL, *overrides]), path).run()
        return RunResult(path, json.loads((path / "summary.json").read_text()))

    return run


@fixture(scope="session")
def small_run(finished_run) -> RunResult:
    """A small run that is measured."""
    return finished_run(*MEASURED)


@fixture(scope="session")
def ignorant_probe(tmp_path_factory) -> Path:
    """Folder of a probe whose score is the same for every update: the live one's with zeros for weights."""
    folder, known = tmp_path_factory.mktemp("ignorant"), load_probe(world_folder(0) / "live_probe")
    files = {}
    for name, content in known.classifier.files().items():
        tensors = load(content)
        files[name] = save({key: torch.zeros_like(t) if t.is_floating_point() else t for key, t in tensors.items()})
    save_probe(folder, replace(known, classifier=CLASSIFIERS[known.meta.classifier].load(files)))
    return folder


@fixture
def run_small(local_ray, tmp_path):
    """Run a small federation with overrides: `run_small("rounds=3")`."""
    counter = iter(range(100))

    def run(*overrides: str, config: Path | None = None) -> RunResult:
        return Federation(load_config(config, [*SMALL, *overrides]), tmp_path / f"run-{next(counter)}").run()

    return run
