"""`safe-fedllm status | scale | pause | resume | stop | set`: commands for a run that is live, from any session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from cluster.live.handle import LiveRun

Name = Annotated[str | None, typer.Option(help="The run; needed only when several are live.")]
Address = Annotated[str, typer.Option(help="Ray cluster, HOST:PORT; `auto` is RAY_ADDRESS or the one on this machine.")]
_NEXT = "takes effect when the round under way is committed"


def add_live_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (status, scale, pause, resume, stop, set_):
        app.command(command.__name__.rstrip("_"))(command)


def status(name: Name = None, address: Address = "auto", as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show the round, clients by state, last weights, probe version and rates of a live run."""
    from cluster.live.table import status_table

    with _live(name, address) as live:
        shown = live.status()
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        Console(width=None if Console().is_terminal else 130).print(status_table(shown))


def scale(clients: Annotated[int, typer.Argument(min=1)], name: Name = None, address: Address = "auto") -> None:
    """Let so many clients take part; those who leave are the last to have joined, and keep their trust."""
    with _live(name, address) as live:
        live.scale(clients)
        typer.echo(f"{live.name}: {clients} clients, {_NEXT}")


def pause(name: Name = None, address: Address = "auto") -> None:
    """Start no further round until `resume`."""
    with _live(name, address) as live:
        live.pause()
        typer.echo(f"{live.name}: pause {_NEXT}")


def resume(name: Name = None, address: Address = "auto") -> None:
    """Go on after `pause`."""
    with _live(name, address) as live:
        live.resume()
        typer.echo(f"{live.name}: goes on")


def stop(name: Name = None, address: Address = "auto") -> None:
    """End the run after the round under way; its results are written, and `run --resume DIR` goes on later."""
    with _live(name, address) as live:
        live.stop()
        typer.echo(f"{live.name}: stop {_NEXT}")


def set_(
    change: Annotated[str, typer.Argument(metavar="KEY=VALUE", help="Such as defense.skip_below=0.3")],
    name: Name = None,
    address: Address = "auto",
) -> None:
    """Change a parameter of the defense of a live run."""
    with _live(name, address) as live:
        live.set(change)
        typer.echo(f"{live.name}: {change} {_NEXT}")


@contextmanager
def _live(name: str | None, address: str) -> Iterator[LiveRun]:
    from cluster.live.handle import LiveRun
    from cluster.ray_connection.session import ray_session

    with ray_session(address):
        yield LiveRun(name)
