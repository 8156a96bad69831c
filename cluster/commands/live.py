"""What is said to a live run: `status`, `scale`, `pause`, `resume`, `stop`, `set`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import Address, Name
from cluster.commands.progress import print_line
from cluster.reporting.console import new_console

if TYPE_CHECKING:
    from cluster.live.control import LiveRun


_NEXT = "takes effect when the round under way is committed"


def status(name: Name = None, address: Address = "auto", as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Show the round, clients by state, last weights, probe version and rates of a live run."""
    from cluster.reporting.status import status_table

    with _live(name, address) as live:
        shown = live.status()
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        new_console().print(status_table(shown))


def scale(clients: Annotated[int, typer.Argument(min=1)], name: Name = None, address: Address = "auto") -> None:
    """Let this many clients take part; the last that joined leave first, and keep their trust."""
    _order(name, address, lambda live: live.scale(clients), f"{clients} clients, {_NEXT}")


def pause(name: Name = None, address: Address = "auto") -> None:
    """Start no further round until `resume`."""
    _order(name, address, lambda live: live.pause(), f"pause {_NEXT}")


def resume(name: Name = None, address: Address = "auto") -> None:
    """Go on after `pause`."""
    _order(name, address, lambda live: live.resume(), "goes on")


def stop(name: Name = None, address: Address = "auto") -> None:
    """End the run after the round under way; its results are written, and `run --resume DIR` goes on later."""
    _order(name, address, lambda live: live.stop(), f"stop {_NEXT}")


def set_(
    change: Annotated[str, typer.Argument(metavar="KEY=VALUE", help="Such as defense.skip_below=0.3")],
    name: Name = None,
    address: Address = "auto",
) -> None:
    """Change a parameter of the defense of a live run."""
    _order(name, address, lambda live: live.set(change), f"{change} {_NEXT}")


@contextmanager
def _live(name: str | None, address: str) -> Iterator[LiveRun]:
    from cluster.live.control import LiveRun
    from cluster.ray_connection.session import ray_session

    with ray_session(address, "--address"):
        yield LiveRun(name)


def _order(name: str | None, address: str, give: Callable[[LiveRun], None], text: str) -> None:
    with _live(name, address) as live:
        give(live)
        print_line(f"{live.name}: {text}")
