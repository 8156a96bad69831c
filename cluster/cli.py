"""The command `safe-fedllm`. Parses first and imports torch and Ray only when a command needs them."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from actors.errors import SafeFedError

if TYPE_CHECKING:
    from cluster.progress import Progress

app = typer.Typer(
    name="safe-fedllm",
    help="Federated LoRA fine-tuning on Ray that keeps its safety when some clients are malicious.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
world_app = typer.Typer(help="Build an embedded world: tokenizer, aligned base model, probe.", no_args_is_help=True)
app.add_typer(world_app, name="world")

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file (default: the embedded world), then overrides."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Run directory; must be new or empty.", show_default="runs/<time>-<level>")
]


@app.command()
def run(arguments: Arguments = None, output: Output = None) -> None:
    """Run a federation and write its adapter, tables and picture.

    Example: safe-fedllm run clients.malicious=5 defense.level=step --output runs/step
    """
    from cluster.loading import load_config, split_arguments

    config = load_config(*split_arguments(arguments or []))
    folder = output or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.defense.level}"

    from cluster.closing_table import group_table, outcome_table
    from cluster.federation import Federation
    from cluster.worlds import ensure_world

    console = _console()
    ensure_world(config, console)
    with _progress(console) as progress:
        result = Federation(config, folder, progress).run()
    console.print(group_table(result))
    console.print(outcome_table([(config.defense.level, result)]))
    console.print(f"Result: {result.path} (adapter/, rounds.parquet, evaluation.parquet, summary.json, run.png)", soft_wrap=True)


@app.command()
def compare(arguments: Arguments = None, output: Output = None) -> None:
    """Run several federations one after another and close with one table.

    Axes are comma-separated: defenses=none,shadow malicious=0,3 seeds=0,1. Other KEY=VALUE hold for every run.
    """
    from cluster.comparison import run_comparison, split_axes
    from cluster.loading import load_config, split_arguments

    axes, rest = split_axes(arguments or [])
    path, overrides = split_arguments(rest)
    config = load_config(path, overrides)

    from cluster.worlds import ensure_world

    console = _console()
    ensure_world(config, console)
    folder = output or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-compare"
    run_comparison(path, overrides, axes, folder, console, _progress)


@world_app.command("build")
def build(
    arguments: Arguments = None, output: Output = None, part: Annotated[str, typer.Option(help="all, base or probe")] = "all"
) -> None:
    """Build a world from nothing: `safe-fedllm world build world.seed=1`. Takes a few minutes on two cores."""
    from cluster.loading import load_config, split_arguments

    config = load_config(*split_arguments(arguments or []))

    from cluster.worlds import build_world

    build_world(config, output, part, _console())


@app.command()
def doctor(arguments: Arguments = None) -> None:
    """Check what a run needs on this machine: versions, memory, GPUs, world, probe, data and cluster."""
    from cluster.doctor import diagnose
    from cluster.loading import load_config, split_arguments

    config = load_config(*split_arguments(arguments or []))
    raise typer.Exit(0 if diagnose(config, _console()) else 1)


@app.command()
def keys() -> None:
    """List every configuration key with its default."""
    from cluster.loading import describe_keys

    for line in describe_keys():
        typer.echo(line)


def _console() -> Console:
    """The terminal as it is; a pipe or a log file gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


@contextmanager
def _progress(console: Console, label: str = "") -> Iterator[Progress]:
    from cluster.progress import LiveProgress, PlainProgress

    progress = LiveProgress(console, label) if console.is_terminal else PlainProgress(lambda line: print(line, flush=True), label)
    try:
        yield progress
    finally:
        progress.close()


def main() -> None:
    """Entry point: errors made for people are printed without a traceback, and end with exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except SafeFedError as error:
        Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
