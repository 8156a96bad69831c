"""What is said to a live run: `status`, `scale`, `pause`, `resume`, `stop`, `set`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.options import Address, Name
from cluster.commands.progress import print_line
from cluster.errors import ConfigError, EndedError
from cluster.reporting.console import new_console

if TYPE_CHECKING:
    from cluster.live.control import LiveRun
    from cluster.reporting.status import Status


_LOOK_S = 1.0
_NEXT = "takes effect when the round under way is committed"


def status(
    name: Name = None,
    address: Address = "auto",
    as_json: Annotated[bool, typer.Option("--json")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew each second, until the run ends or Ctrl-C.")] = False,
) -> None:
    """Show the round, which clients have delivered, last weights, safety and expected end of a live run."""
    from cluster.reporting.status import status_table

    if watch and as_json:
        raise ConfigError("--watch shows a table; leave --json out")
    with _live(name, address) as live:
        shown = live.status()
        if watch:
            _follow(live, shown)
            return
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


def _follow(live: LiveRun, shown: Status) -> None:
    """Draw the status in place until the run ends."""
    from rich.live import Live

    from cluster.reporting.status import status_table

    console = new_console()
    with Live(status_table(shown), console=console, auto_refresh=False) as display:
        try:
            while True:
                time.sleep(_LOOK_S)
                display.update(status_table(live.status()), refresh=True)
        except EndedError as error:
            ended = str(error)
    console.print(ended, soft_wrap=True)


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
