"""`safe-fedllm init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import path_argument
from cluster.commands.writing import writing_to
from cluster.reporting.console import new_console


def init(
    folder: Annotated[Path, path_argument("Must be new or empty.")],
    model: Annotated[
        str | None, typer.Option(help="Your own model, a directory or a hub name.", show_default="the embedded world's")
    ] = None,
) -> None:
    """Write a commented starting configuration and a place for data, and say what to do next.

    Example: safe-fedllm init mine --model models/my-llama
    """
    from cluster.starting.project import write_project

    with writing_to("DIR", folder):
        path = write_project(folder, model)
    console = new_console()
    console.print(f"Configuration: {path}, data: {folder / 'data'} (its README.md says what a row is). Next:", soft_wrap=True)
    command = f"safe-fedllm run {shlex.quote(str(path))}"
    console.print(f"  {command} --dry-run", soft_wrap=True)
    console.print(f"  {command} --output {shlex.quote(str(folder / 'run'))}", soft_wrap=True)
