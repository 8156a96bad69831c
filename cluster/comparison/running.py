"""Running cells: in this process one by one, or side by side with a driver each, as Ray tasks on one cluster.

Why not Ray Tune: it brings pandas and files of its own, and its restore, failure handling and scheduling stand on trials that
report to it. A cell checkpoints, resumes and replaces its actors by itself; what is left is a loop over `ray.wait`.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import SafeFedError
from cluster.comparison.axes import Cell
from cluster.comparison.room import actors_of_cell, with_actors
from cluster.comparison.stored import find_stage
from cluster.config.loading import dump_config
from cluster.config.schema import RunConfig
from cluster.federation import Federation, RunResult
from cluster.reporting.progress import Progress
from cluster.workers.nodes import living_nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    path: Path
    summary: dict[str, Any] | None = None
    """summary.json; None when the cell failed."""
    error: str | None = None
    """What a person should read of the failure."""
    trace: str | None = None
    """The whole of it."""

    @property
    def result(self) -> RunResult:
        """Of a cell that did not fail."""
        return RunResult(self.path, self.summary)


def stored_outcome(cell: Cell, path: Path) -> Outcome:
    """The outcome of a cell that an earlier command finished."""
    return Outcome(cell=cell, path=path, summary=json.loads((path / "summary.json").read_text()))


def run_one_by_one(
    cells: Sequence[Cell], folder: Path, progress: Callable[[str], AbstractContextManager[Progress]]
) -> Iterator[Outcome]:
    """Each outcome as it comes. `progress` shows a run whose lines begin with a label."""
    for cell in cells:
        with progress(f"{cell.label}: ") as shown:
            outcome = _attempt(cell, folder, cell.config, shown)
        yield outcome


def run_side_by_side(cells: Sequence[Cell], folder: Path, at_once: int) -> Iterator[Outcome]:
    """Each outcome as it comes, in whatever order cells end. The connected cluster's room is divided among `at_once`."""
    nodes, here = living_nodes(), ray.get_runtime_context().get_node_id()
    drive = ray.remote(num_cpus=0, max_retries=0)(_attempt_in).options(
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False)  # where the run directories lie
    )
    configs = [with_actors(cell.config, actors_of_cell(cell.config, nodes, at_once)) for cell in cells]
    waiting, running = list(zip(cells, configs, strict=True)), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            cell, config = waiting.pop(0)
            running[drive.remote(Path.cwd(), cell, folder.resolve(), config)] = cell
        (done,), _ = ray.wait(list(running), num_returns=1)
        cell = running.pop(done)
        try:
            yield ray.get(done)
        except RayError as error:  # the driver's process died
            yield _failure(cell, folder / cell.name, error)


def _attempt_in(working_directory: Path, *arguments: Any) -> Outcome:
    """`_attempt` in a worker, where relative paths mean what they mean on the command line."""
    os.chdir(working_directory)
    return _attempt(*arguments)


def _attempt(cell: Cell, folder: Path, config: RunConfig, progress: Progress | None = None) -> Outcome:
    path = folder / cell.name
    try:
        return Outcome(cell=cell, path=path, summary=_run(path, config, progress).summary)
    except Exception as error:  # whatever it is, the other cells go on
        return _failure(cell, path, error)


def _failure(cell: Cell, path: Path, error: Exception) -> Outcome:
    text = str(error) if isinstance(error, SafeFedError) else f"{type(error).__name__}: {error}"
    return Outcome(cell=cell, path=path, error=text.strip(), trace="".join(traceback.format_exception(error)))


def _run(path: Path, config: RunConfig, progress: Progress | None) -> RunResult:
    """Begin the run, or go on with it from its last committed round."""
    if find_stage(path, config) == "new":
        return Federation(config, path, progress).run()
    temporary = path / ".config.yaml.tmp"  # the pool may be of another size than when it began
    temporary.write_text(dump_config(config))
    temporary.replace(path / "config.yaml")
    return Federation.resume(path, progress).run()
