"""Commands that our documents tell people to type, read by the parsers that would run them."""

import shlex
from typing import Any

import typer.main
from ray.scripts.scripts import cli as ray_cli

from cluster.cli import app


def parse(command: str) -> dict[str, Any]:
    """Parameters of a command of ours or Ray's, read by its own parser; raises on a command or option that it does not know."""
    group, words = ray_cli if command.startswith("ray ") else typer.main.get_command(app), shlex.split(command)
    name, *rest = words[3:] if words[:3] == ["python", "-m", "cluster"] else words[1:]
    parser = group.commands[name]
    while hasattr(parser, "commands"):  # `probe collect`, `job submit`: a group of its own
        name, *rest = rest
        parser = parser.commands[name]
    return parser.make_context(name, rest).params
