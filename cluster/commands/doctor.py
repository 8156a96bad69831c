"""What a configuration needs and may say: `doctor`, `keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, load_arguments, output_option
from cluster.config.loading import describe_keys
from cluster.reporting.console import new_console


def doctor(
    arguments: Arguments = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, HOST:PORT or `auto`; overrides cluster.address.")] = None,
    output: Annotated[Path | None, output_option("Run directory that would be made.", "runs/...")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the nodes may take to answer.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="A list of {check, ok, detail}.")] = False,
) -> None:
    """Check this machine and every node of a cluster: what a run with this configuration would miss, and what to do."""
    config = load_arguments(arguments, [f"cluster.address={address}"] if address else [])

    from cluster.doctor.checks import check_all, print_findings

    runs, key = output.parent if output else Path("runs"), "--address" if address else "cluster.address"
    raise typer.Exit(0 if print_findings(check_all(config, runs, timeout, key), None if as_json else new_console()) else 1)


def keys() -> None:
    """List every configuration key with its default."""
    for line in describe_keys():
        typer.echo(line)
