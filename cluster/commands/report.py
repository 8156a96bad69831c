"""`safe-fedllm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cluster.commands.options import output_option, path_argument
from cluster.commands.writing import writing_to
from cluster.reporting.console import new_console


def report(
    places: Annotated[list[Path], path_argument("Run directories, or those of a comparison.")],
    kind: Annotated[Literal["html", "md"], typer.Option("--format", help="A page, or Markdown.")] = "html",
    output: Annotated[Path | None, output_option("The file to write.", "DIR/report.html, of several: report.html")] = None,
) -> None:
    """Write what happened in a run on one page that opens without a network; of several runs, side by side.

    Example: safe-fedllm report runs/mine
    """
    from cluster.report.page import write_page

    file = output or (places[0] if len(places) == 1 else Path()) / f"report.{kind}"
    with writing_to("--output", file):
        write_page(places, file, kind)
    new_console().print(f"Report: {file}", soft_wrap=True)
