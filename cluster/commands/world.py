"""`safe-fedllm world build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, Output, load_arguments
from cluster.commands.writing import writing_to
from cluster.reporting.console import new_console


def build(
    arguments: Arguments = None, output: Output = None, part: Annotated[str, typer.Option(help="all, base or probe")] = "all"
) -> None:
    """Build a world from scratch: `safe-fedllm world build world.seed=1`. Takes a few minutes on two cores."""
    from cluster.simulation.world_build import build_world

    with writing_to("--output", output or Path()):
        build_world(load_arguments(arguments), output, part, new_console())
