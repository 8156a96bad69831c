"""How text reaches a terminal or a log: as it is. Nothing in it is markup, and control characters are shown, not obeyed."""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.text import Text

_LOG_WIDTH = 130


def plain(text: str) -> str:
    r"""The text with every character that is not printable written out, such as \x1b; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


class PlainFormatter(logging.Formatter):
    """Warnings as they are."""

    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


class PlainConsole(Console):
    """A console for text that other people wrote: file names, orders, clients' ids, messages of errors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed, also in cells and titles of tables, passes here."""
        return super().render_str(plain(text), **options)


def new_console(*, stderr: bool = False) -> Console:
    """The terminal as it is; a pipe or a log file gets lines wide enough for the tables."""
    console = PlainConsole(stderr=stderr)
    return console if console.is_terminal else PlainConsole(stderr=stderr, width=_LOG_WIDTH)
