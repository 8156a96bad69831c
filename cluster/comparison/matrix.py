"""A whole comparison: what is missing is run, every cell told as it ends, and tables and pictures close it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from rich.console import Console

from cluster.comparison.axes import Cell
from cluster.comparison.figures import cell_answers, cell_rows, group_rows, heat_map
from cluster.comparison.files import brief_texts, has_several_seeds, notes, write_tables
from cluster.comparison.room import most_at_once
from cluster.comparison.running import Outcome, run_one_by_one, run_side_by_side, stored_outcome
from cluster.comparison.stored import drop_surplus, find_stages, is_finished
from cluster.data.worlds import ensure_world
from cluster.ray_connection.session import ray_session
from cluster.reporting.closing_table import group_table, outcome_table, spread_table
from cluster.reporting.pictures import draw_comparison, draw_curves
from cluster.reporting.progress import Progress
from cluster.workers.nodes import living_nodes

_FEW = 4
"""Up to so many cells are shown one by one: a table of client groups and a curve for each."""

ShowRun = Callable[[Console, str], AbstractContextManager[Progress]]
"""A display of one run whose lines begin with a label."""


def run_comparison(
    cells: Sequence[Cell],
    folder: Path,
    console: Console,
    progress: ShowRun,
    parallel: int | None = None,
    *,
    lean: bool = False,
) -> list[Outcome]:
    """Run the cells that are not finished yet, and write tables and pictures into the folder.

    Args:
        cells: Of `plan_cells`; each has a directory in `folder`.
        parallel: Cells at once; None: as many as there is full room for.
        lean: Whether a finished cell keeps its results only.

    Raises:
        ConfigError: a directory holds something else. ClusterError: no cluster, or no room for `parallel` cells.
    """
    stages = find_stages(cells, folder)
    outcomes = {
        cell.name: stored_outcome(cell, folder / cell.name)
        for cell, stage in zip(cells, stages, strict=True)
        if stage == "finished"
    }
    missing = [cell for cell in cells if cell.name not in outcomes]
    if outcomes or "unfinished" in stages:
        console.print(f"{len(outcomes)} of {len(cells)} cells are finished already, {stages.count('unfinished')} unfinished")
    for config in {cell.config.world.seed: cell.config for cell in missing}.values():
        ensure_world(config, console)
    folder.mkdir(parents=True, exist_ok=True)
    since = time.perf_counter()
    for num_run, outcome in enumerate(_run(missing, folder, console, progress, parallel), start=1):
        outcomes[outcome.cell.name] = outcome
        if lean and outcome.summary is not None and is_finished(outcome.summary):
            drop_surplus(outcome.path)
        write_tables(folder, _in_order(cells, outcomes))
        elapsed_s, num_left = time.perf_counter() - since, len(missing) - num_run
        console.print(
            f"[{len(outcomes)} of {len(cells)}] {cell_news(outcome)}{time_left(elapsed_s, num_run, num_left)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    results = _in_order(cells, outcomes)
    write_tables(folder, results)
    _draw(folder, results)
    _print_closing(console, folder, results)
    return results


def _run(cells: Sequence[Cell], folder: Path, console: Console, progress: ShowRun, parallel: int | None) -> Iterator[Outcome]:
    if not cells:
        return
    with ray_session(cells[0].config.cluster.address):
        at_once = min(parallel or most_at_once([cell.config for cell in cells], living_nodes()), len(cells))
        if at_once == 1:
            yield from run_one_by_one(cells, folder, partial(progress, console))
        else:
            console.print(f"{len(cells)} cells to run, {at_once} at once; safe-fedllm status shows them")
            yield from run_side_by_side(cells, folder, at_once)


def _in_order(cells: Sequence[Cell], outcomes: dict[str, Outcome]) -> list[Outcome]:
    return [outcomes[cell.name] for cell in cells if cell.name in outcomes]


def cell_news(outcome: Outcome) -> str:
    """A cell that has just ended, in a line."""
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


def _draw(folder: Path, outcomes: Sequence[Outcome]) -> None:
    groups = group_rows(cell_rows(outcomes))
    draw_comparison(folder, {"rule score": heat_map(groups, "rule_score"), "utility": heat_map(groups, "utility")})
    good = [outcome for outcome in outcomes if outcome.summary is not None]
    if good and len(outcomes) <= _FEW:
        draw_curves(folder, {outcome.cell.label: _safety_curve(outcome) for outcome in good})


def _safety_curve(outcome: Outcome) -> list[tuple[int, float]]:
    rows = outcome.result.evaluation.to_pylist()
    return [(row["rounds_done"], row["value"]) for row in rows if row["measure"] == "rule_score"]


def _print_closing(console: Console, folder: Path, outcomes: Sequence[Outcome]) -> None:
    good = [(outcome.cell.label, outcome.result) for outcome in outcomes if outcome.summary is not None]
    if len(outcomes) <= _FEW:
        for label, result in good:
            console.print(f"{label}:")
            console.print(group_table(result))
    rows = cell_rows(outcomes)
    groups = group_rows(rows, cell_answers(outcomes))
    if has_several_seeds(groups):
        console.print(spread_table(*brief_texts(groups), notes(groups, rows)))
    else:
        console.print(outcome_table(good))
    for outcome in outcomes:
        if outcome.error is not None:
            console.print(f"failed: {outcome.cell.label}: {outcome.error}", style="red", markup=False, soft_wrap=True)
    console.print(f"Results: {folder} (a directory per run, comparison.md, .csv, .parquet, .png)", soft_wrap=True)
    unfinished = sum(not is_finished(result.summary) for _, result in good)
    if unfinished:
        console.print(
            f"{unfinished} of {len(outcomes)} cells were stopped; the same command with --output {folder} goes on with them"
        )
    failed = len(outcomes) - len(good)
    if failed:
        console.print(f"{failed} of {len(outcomes)} cells failed; the same command with --output {folder} runs only these")
