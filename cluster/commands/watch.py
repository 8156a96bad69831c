"""`safe-fedllm watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import as_path
from cluster.reporting.console import new_console


def watch(
    place: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Of a run or a comparison; default: the newest in runs/.", parser=as_path),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 0,
) -> None:
    """Serve the report of a run or a comparison until Ctrl-C. It follows what goes on round by round, and stays at the end.

    Example: safe-fedllm watch runs/mine
    """
    from cluster.watching.following import Followed, newest_run
    from cluster.watching.server import PageServer

    console, path = new_console(), place or newest_run(Path("runs"))
    with PageServer(Followed(path), host, port) as server:
        console.print(f"{path}: {server.url} (until Ctrl-C)", soft_wrap=True)
        if not server.is_local:
            warning = "warning: plain HTTP: whoever sees the traffic can read the report; an SSH tunnel to this machine is safer"
            console.print(warning, style="red", soft_wrap=True)
        server.serve_forever()
