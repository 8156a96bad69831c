"""`safe-fedllm compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, new_folder, output_option
from cluster.commands.progress import shown_progress
from cluster.commands.writing import writing_to
from cluster.config.loading import EMBEDDED, read_mapping, split_arguments, with_overrides
from cluster.exits import ENDED_OTHERWISE
from cluster.reporting.console import new_console


def compare(
    arguments: Arguments = None,
    output: Annotated[Path | None, output_option("Continues the comparison in this directory.", "runs/<time>-compare")] = None,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once, which share the cluster.", show_default="as many as there is full room for"),
    ] = None,
    lean: Annotated[
        bool, typer.Option("--lean", help="Remove checkpoints, generated data and versions of the probe of each finished run.")
    ] = False,
) -> None:
    """Run a matrix of federations and close with one table; exit code 1 when a run failed.

    Axes are comma-separated: defenses=none,shadow,live+canary,krum,shadow:median rules=krum,bulyan attacks=alie,ipm
    malicious=0,3 worlds=0,1 seeds=0-9. Other KEY=VALUE hold for every run. Among the defenses are two to compare with: oracle
    (attackers never take part) and realignment (the server repairs the final adapter; also LEVEL+realignment).
    """
    from cluster.comparison.cells import plan_cells, split_axes

    axes, rest = split_axes(arguments or [])
    path, overrides = split_arguments(rest)
    cells = plan_cells(with_overrides(read_mapping(path or EMBEDDED), overrides), axes)

    from cluster.comparison.compare import run_comparison

    folder = output or new_folder("compare")
    with writing_to("--output", folder):
        outcomes = run_comparison(cells, folder, new_console(), shown_progress, parallel, lean=lean)
    raise typer.Exit(ENDED_OTHERWISE if any(outcome.error is not None for outcome in outcomes) else 0)
