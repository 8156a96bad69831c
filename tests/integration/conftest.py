"""Builders for runs on the embedded world that are small enough for a test."""

import shutil
from pathlib import Path

from pytest import fixture

from cluster import Federation, RunResult, load_config

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
    """Small runs for tests that only look at them, each made once: `finished_run("rounds=1")`."""
    done: dict[tuple[str, ...], RunResult] = {}

    def run(*overrides: str) -> RunResult:
        if overrides not in done:
            done[overrides] = Federation(load_config(None, [*SMALL, *overrides]), tmp_path_factory.mktemp("small") / "run").run()
        return done[overrides]

    return run


@fixture(scope="session")
def small_run(finished_run) -> RunResult:
    """A small run that is measured."""
    return finished_run(*MEASURED)


@fixture
def run_small(local_ray, tmp_path):
    """Run a small federation with overrides: `run_small("rounds=3")`."""
    counter = iter(range(100))

    def run(*overrides: str, config: Path | None = None) -> RunResult:
        return Federation(load_config(config, [*SMALL, *overrides]), tmp_path / f"run-{next(counter)}").run()

    return run
