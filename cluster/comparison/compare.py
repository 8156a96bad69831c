"""A whole comparison: missing cells run, each outcome is printed as its cell ends, and tables and a page close it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from rich.console import Console

from cluster.comparison.cell_directory import drop_surplus, find_stage, is_finished
from cluster.comparison.cell_runner import most_at_once, run_one_by_one, run_side_by_side
from cluster.comparison.cells import Cell, for_each_cell
from cluster.comparison.display import RunningCells
from cluster.comparison.groups import grouped
from cluster.comparison.outcome import Outcome
from cluster.comparison.tables import brief_texts, has_several_seeds, notes, write_tables
from cluster.ray_connection.session import ray_session
from cluster.report.closing_table import group_table, outcome_table, spread_table
from cluster.report.page import write_page
from cluster.report.run_result import RunResult
from cluster.reporting.callback import RunCallback
from cluster.simulation.world_build import ensure_world
from cluster.tracking.opening import check_installed
from cluster.workers.nodes import living_nodes

_FEW = 4
"""Up to this many cells each have a table of client groups."""

ShowRun = Callable[[Console, str], AbstractContextManager[RunCallback]]
"""A display of one run whose lines begin with a label."""


def run_comparison(
    cells: Sequence[Cell], folder: Path, console: Console, progress: ShowRun, parallel: int | None = None, *, lean: bool = False
) -> list[Outcome]:
    """Run the cells that are not finished yet, and write tables and a page into the folder.

    Args:
        cells: Of `plan_cells`; each has a directory in `folder`.
        parallel: Cells at once; None: as many as there is full room for.
        lean: Whether a finished cell keeps its results only.

    Raises:
        ConfigError: some directories hold something else; names all of them, each with the key that differs.
        ClusterError: no cluster, or no room for `parallel` cells.
    """
    outcomes: dict[str, Outcome] = {}
    stages = for_each_cell({cell.label: cell for cell in cells}, lambda cell: find_stage(folder / cell.name, cell.config))
    for cell, stage in zip(cells, stages, strict=True):
        if stage == "finished":
            path = folder / cell.name
            outcomes[cell.name] = Outcome(cell=cell, path=path, summary=json.loads((path / "summary.json").read_text()))
    missing = [cell for cell in cells if cell.name not in outcomes]
    if outcomes or "unfinished" in stages:
        console.print(f"{len(outcomes)} of {len(cells)} cells are finished already, {stages.count('unfinished')} unfinished")
    for cell in missing:
        check_installed(cell.config)
    for config in {cell.config.world.seed: cell.config for cell in missing}.values():
        ensure_world(config, console)
    folder.mkdir(parents=True, exist_ok=True)
    since = time.perf_counter()
    for num_run, outcome in enumerate(_run(missing, folder, console, progress, parallel), start=1):
        outcomes[outcome.cell.name] = outcome
        if lean:
            drop_surplus(outcome.path)
        write_tables(folder, _in_order(cells, outcomes))
        left = time_left(time.perf_counter() - since, num_run, len(missing) - num_run)
        line = f"[{len(outcomes)} of {len(cells)}] {outcome_line(outcome)}{left}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    ended = _in_order(cells, outcomes)
    write_tables(folder, ended)
    _close(console, folder, ended)
    return ended


def _run(cells: Sequence[Cell], folder: Path, console: Console, progress: ShowRun, parallel: int | None) -> Iterator[Outcome]:
    if not cells:
        return
    with ray_session(cells[0].config.cluster.address):
        at_once = min(parallel or most_at_once([cell.config for cell in cells], living_nodes()), len(cells))
        if at_once == 1:
            yield from run_one_by_one(cells, folder, partial(progress, console))
        else:
            console.print(f"{len(cells)} cells to run, {at_once} at once; safe-fedllm status shows them")
            with RunningCells(console, folder) as display:
                yield from run_side_by_side(cells, folder, at_once, display.look)


def _in_order(cells: Sequence[Cell], outcomes: Mapping[str, Outcome]) -> list[Outcome]:
    return [outcomes[cell.name] for cell in cells if cell.name in outcomes]


def outcome_line(outcome: Outcome) -> str:
    """A cell that has just ended, in one line."""
    if outcome.summary is None:
        return f"{outcome.cell.label}: failed, {outcome.error.splitlines()[0] if outcome.error else 'no message'}"
    names = {"rule_score": "safety", "compliance": "compliance", "utility": "utility"}
    names |= {"mean_weight_benign": "benign weight", "mean_weight_malicious": "malicious weight"}
    known = [f"{name} {outcome.summary[key]:.3f}" for key, name in names.items() if outcome.summary[key] is not None]
    return f"{outcome.cell.label}: {', '.join([*known, duration(outcome.summary['wall_s'])])}"


def time_left(elapsed_s: float, num_run: int, num_left: int) -> str:
    """`; about 12 min left`, from the mean so far; nothing after the last cell."""
    return f"; about {duration(elapsed_s / num_run * num_left)} left" if num_left else ""


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `2.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _close(console: Console, folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page, and print the tables and what is left to do."""
    groups = grouped(outcomes)
    results = {o.cell.label: RunResult(o.path, o.summary) for o in outcomes if o.summary is not None}
    if results:
        write_page([result.path for result in results.values()], folder / "report.html")
    if len(outcomes) <= _FEW:
        for label, result in results.items():
            console.print(f"{label}:")
            console.print(group_table(result))
    if has_several_seeds(groups):
        console.print(spread_table(*brief_texts(groups), notes(groups, outcomes)))
    else:
        console.print(outcome_table(list(results.items())))
    for outcome in outcomes:
        if outcome.error is not None:
            console.print(f"failed: {outcome.cell.label}: {outcome.error}", style="red", markup=False, soft_wrap=True)
    console.print(f"Results: {folder} (a directory per run, comparison.md, .csv, .parquet, report.html)", soft_wrap=True)
    unfinished, failed = sum(not is_finished(result.summary) for result in results.values()), len(outcomes) - len(results)
    if unfinished:
        console.print(f"{unfinished} of {len(outcomes)} cells were stopped; the same command with --output {folder} resumes them")
    if failed:
        console.print(f"{failed} of {len(outcomes)} cells failed; the same command with --output {folder} runs only these")
