"""A group of commands, each of which takes `--verbose`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

VERBOSE = "--verbose"
Verbose = Annotated[bool, typer.Option(VERBOSE, help="Show the traceback of an error.")]


class CommandGroup(typer.Typer):
    """A group of commands. Each takes `--verbose`, which `main` reads, before its name or after it."""

    def __init__(self, text: str) -> None:
        super().__init__(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
        self.callback(help=text)(_take_verbose)

    def command(self, *arguments: Any, **options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
        register = super().command(*arguments, **options)

        def add(function: Callable[..., None]) -> Callable[..., None]:
            @wraps(function)
            def with_verbose(*, verbose: bool, **values: Any) -> None:  # noqa: ARG001 - `main` reads it
                function(**values)

            own = inspect.signature(function, eval_str=True)
            parameter = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
            with_verbose.__signature__ = own.replace(parameters=[*own.parameters.values(), parameter])  # pyright: ignore[reportAttributeAccessIssue]
            with_verbose.__annotations__ = {**function.__annotations__, "verbose": Verbose}
            register(with_verbose)
            return function

        return add


def _take_verbose(verbose: Verbose = False) -> None:
    """`main` reads it."""
