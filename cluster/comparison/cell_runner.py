"""Runs cells: in this process one by one, or side by side with a driver each, as Ray tasks that share one cluster.

Why not Ray Tune: it brings pandas and files of its own, and its restore, failure handling and scheduling need trials that
report to it. A cell checkpoints, resumes and replaces its actors by itself, so a loop over `ray.wait` is enough.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.comparison.cell_directory import find_stage
from cluster.comparison.cells import Cell
from cluster.comparison.outcome import Outcome
from cluster.config.schema import RunConfig
from cluster.data.sources import base_model
from cluster.errors import ClusterError, describe
from cluster.federation import Federation
from cluster.reporting.callback import RunCallback
from cluster.workers.nodes import Node, living_nodes, total
from cluster.workers.placement import SERVER_GPU_SHARE, plan_placement

_ALMOST = 1e-9
_MANY = 1_000_000
_LOOK_S = 1.0


def run_one_by_one(
    cells: Sequence[Cell], folder: Path, progress: Callable[[str], AbstractContextManager[RunCallback]]
) -> Iterator[Outcome]:
    """Yield each outcome as it comes. `progress` shows a run whose lines begin with a label."""
    for number, cell in enumerate(cells, start=1):
        with progress(f"{number}/{len(cells)} {cell.label}: ") as shown:
            outcome = _attempt(cell, folder, shown)
        yield outcome


def run_side_by_side(
    cells: Sequence[Cell], folder: Path, at_once: int, look: Callable[[Sequence[Cell], int], None]
) -> Iterator[Outcome]:
    """Yield each outcome as it comes, in the order in which cells end. `at_once` cells share the connected cluster.

    Args:
        look: Called each second with the cells that run and the number of those that wait.
    """
    nodes, here = living_nodes(), ray.get_runtime_context().get_node_id()
    drive = ray.remote(_attempt_in).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),  # Where the run directories lie.
    )
    waiting = [replace(c, config=with_actors(c.config, actors_of_cell(c.config, nodes, at_once))) for c in cells]
    running: dict[ray.ObjectRef[Outcome], Cell] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            cell = waiting.pop(0)
            running[drive.remote(Path.cwd(), cell, folder.resolve())] = cell
        ended, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
        if not ended:
            look(list(running.values()), len(waiting))
            continue
        (done,) = ended
        cell = running.pop(done)
        try:
            yield ray.get(done)
        except RayError as error:  # The driver's process died.
            yield _failure(cell, folder, error)


def _attempt_in(working_directory: Path, cell: Cell, folder: Path) -> Outcome:
    """`_attempt` in a worker, where relative paths mean the same as on the command line."""
    os.chdir(working_directory)
    return _attempt(cell, folder)


def _attempt(cell: Cell, folder: Path, progress: RunCallback | None = None) -> Outcome:
    """Begin the run, or resume it from its last committed round."""
    path = folder / cell.name
    try:
        if find_stage(path, cell.config) == "new":
            federation = Federation(cell.config, path, progress)
        else:
            federation = Federation.resume(path, progress, config=cell.config)
        return Outcome(cell=cell, path=path, summary=federation.run().summary)
    except Exception as error:  # Whatever it is, the other cells run.
        return _failure(cell, folder, error)


def _failure(cell: Cell, folder: Path, error: Exception) -> Outcome:
    trace = "".join(traceback.format_exception(error))
    return Outcome(cell=cell, path=folder / cell.name, error=describe(error).line, trace=trace)


def most_at_once(configs: Sequence[RunConfig], nodes: Sequence[Node]) -> int:
    """The most cells that can run at once, each with as many client actors as alone; at least 1."""
    for at_once in range(len(configs), 1, -1):
        with suppress(ClusterError):
            if all(
                actors_of_cell(c, nodes, at_once) >= plan_placement(c, nodes, base_model(c)).num_client_actors for c in configs
            ):
                return at_once
    return 1


def actors_of_cell(config: RunConfig, nodes: Sequence[Node], at_once: int) -> int:
    """Client actors of a cell when `at_once` cells share the cluster.

    Raises:
        ClusterError: a cell would have no actor, or too little memory.
    """
    actors = _room(config, nodes, at_once) // at_once
    if actors < 1:
        fix = "lower it" if total(nodes, "GPU") < 1 else "lower it, or cluster.gpus_per_client"
        raise ClusterError(f"--parallel {at_once}: the cluster has no room for a client actor of every cell; {fix}")
    actors = min(actors, config.cluster.client_actors or actors)
    part = [
        Node({name: value / at_once if name == "memory" else value for name, value in node.resources.items()}, node.labels)
        for node in nodes
    ]
    try:
        plan_placement(with_actors(config, actors), part, base_model(config))
    except ClusterError as error:
        raise ClusterError(f"--parallel {at_once}: {error}; or lower --parallel") from error
    return actors


def with_actors(config: RunConfig, client_actors: int) -> RunConfig:
    """The configuration with that many client actors, which changes no result."""
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"client_actors": client_actors})})


def _room(config: RunConfig, nodes: Sequence[Node], at_once: int) -> int:
    """Client actors that the cluster holds in all, beside the evaluations of every cell."""
    cluster = config.cluster.model_copy(update={"client_actors": None, "clients_per_actor": None})
    clients = config.clients.model_copy(update={"per_round": None})
    unbounded = config.model_copy(update={"cluster": cluster, "clients": clients})
    bare = [Node({name: value for name, value in node.resources.items() if name != "memory"}, node.labels) for node in nodes]
    placement = plan_placement(unbounded, bare, base_model(config), _MANY)
    share = placement.client_options.get("num_gpus")
    if share is None:
        return placement.num_placeable
    left = total(nodes, "GPU") - at_once * SERVER_GPU_SHARE
    return min(placement.num_placeable, int(left / share + _ALMOST))
