"""Arguments and options that several commands take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.models import ArgumentInfo, OptionInfo

from cluster.config.loading import load_config, split_arguments
from cluster.config.schema import RunConfig

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG] [KEY=VALUE]...", help="A YAML file (default: the embedded world), then overrides."),
]


def as_path(text: str) -> Path:
    """A path as it is typed; `~` is the home directory also where the shell leaves it."""
    return Path(text).expanduser()


def output_option(text: str, default: str | bool = True) -> OptionInfo:
    """The option `--output` with this help; `default` as the help shows it, True: as it is."""
    return typer.Option("--output", "-o", help=text, show_default=default, parser=as_path, metavar="PATH")


def path_argument(text: str) -> ArgumentInfo:
    """An argument that takes a path."""
    return typer.Argument(help=text, parser=as_path)


def path_option(text: str) -> OptionInfo:
    """An option that takes a path."""
    return typer.Option(help=text, parser=as_path, metavar="PATH")


Output = Annotated[Path | None, output_option("Run directory; must be new or empty.", "runs/<time>-<level>")]
Name = Annotated[str | None, typer.Option(help="The run; needed only when several are live.")]
Address = Annotated[str, typer.Option(help="Ray cluster, HOST:PORT; `auto` is RAY_ADDRESS or the one on this machine.")]


def load_arguments(arguments: list[str] | None, more: Sequence[str] = ()) -> RunConfig:
    path, overrides = split_arguments(arguments or [])
    return load_config(path, [*overrides, *more])


def new_folder(name: str) -> Path:
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
