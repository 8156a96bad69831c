"""What is done with the adapter of a finished run: `safe-fedllm chat`, `safe-fedllm merge`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import output_option, path_argument
from cluster.commands.writing import writing_to
from cluster.reporting.console import new_console

Run = Annotated[Path, path_argument("Directory of a finished run.")]


def chat(
    run: Run,
    prompts: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Answer this and end; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 128,
) -> None:
    """Answer prompts with the base model and with the adapter, side by side. Without --prompt it reads a prompt a line.

    Example: safe-fedllm chat runs/mine --prompt "Who are you?"
    """
    from rich.table import Table

    from cluster.adapter.chat import SideBySide

    console, models = new_console(), SideBySide(run, max_new_tokens)
    for prompt in prompts or _typed():
        pair = models.answer(prompt)
        table = Table("base model", "with the adapter", title=prompt, title_justify="left", expand=True)
        table.add_row(pair.base, pair.adapter)
        console.print(table)


def _typed() -> Iterator[str]:
    """Lines as they are typed, until an empty one or the end of the input."""
    if sys.stdin.isatty():
        new_console().print("A prompt a line; an empty line ends.")
    for line in sys.stdin:
        if not line.strip():
            return
        yield line.strip()


def merge(run: Run, output: Annotated[Path, output_option("Directory of the model; must be new or empty.")]) -> None:
    """Merge the adapter into its base model, for servers that take no adapters.

    Example: safe-fedllm merge runs/mine --output models/mine
    """
    from cluster.adapter.merge import merge_adapter

    with writing_to("--output", output):
        new_console().print(f"Model: {merge_adapter(run, output)}", soft_wrap=True)
