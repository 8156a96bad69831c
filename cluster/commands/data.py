"""`safe-fedllm data`: `check`, `starter`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, as_path, path_argument
from cluster.commands.progress import print_line
from cluster.commands.writing import writing_to
from cluster.config.loading import read_mapping, split_arguments, validate, with_overrides
from cluster.config.schema import RunConfig
from cluster.exits import ENDED_OTHERWISE
from cluster.reporting.console import new_console


def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A data file, a folder of them, or a name of the hub (hf:ORG/NAME).")
    ],
    arguments: Arguments = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="As data.columns: instruction=NAME,response=NAME.", metavar="OURS=THEIRS")
    ] = None,
) -> None:
    """Print what a run would understand of data: rows, columns, lengths, what is refused, and three examples.

    With model.path lengths are tokens, and the examples are laid out by its chat template. Exit code 1: something cannot be used.

    Example: safe-fedllm data check alpaca.json model.path=HuggingFaceTB/SmolLM2-135M-Instruct
    """
    pairs = [pair for option in columns or () for pair in option.split(",")]
    config = _load(path, [*(arguments or []), *(f"data.columns.{pair}" for pair in pairs)])

    from actors.data.findings import examine
    from actors.data.reader import DataReader
    from cluster.data.own_data import file_groups
    from cluster.reporting.data_findings import print_findings

    mapping, length = config.data.columns.given, config.training.max_length
    reader = None if config.is_embedded else DataReader(config.model, length)
    files = [file for group in file_groups(str(as_path(path))) for file in group]
    findings = [examine(file, mapping, reader, length) for file in files]
    print_findings(new_console(), findings, length, "characters" if reader is None else "tokens")
    raise typer.Exit(ENDED_OTHERWISE if any(finding.errors for finding in findings) else 0)


def starter(folder: Annotated[Path, path_argument("A folder for the files; none of them may be there already.")]) -> None:
    """Write starter data for the server, to edit, and print the settings that read it.

    Requests that a chat model should refuse with refusals and with openers of answers, harmless instructions with answers, and
    requests that only sound unsafe. The files are in the public domain.
    """
    from cluster.data.starter import starter_configuration, write_starter

    with writing_to("DIR", folder):
        write_starter(folder)
    typer.echo("Settings that read these files; paste them into your configuration:\n")
    print_line(starter_configuration(folder).rstrip())


def _load(path: str, arguments: list[str]) -> RunConfig:
    """The configuration, of which only the model and how data is read count."""
    file, overrides = split_arguments(arguments)
    document = with_overrides(read_mapping(file) if file else {}, overrides)
    model, data = document.get("model"), document.setdefault("data", {})
    if isinstance(model, dict) and isinstance(data, dict) and model.get("path") is not None:
        data.setdefault("path", path)
    return validate(document)
