"""How commands show what goes on: bars in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.reporting.console import plain

if TYPE_CHECKING:
    from rich.console import Console

    from cluster.reporting.callback import RunCallback


def print_line(text: str) -> None:
    print(plain(text), flush=True)


@contextmanager
def shown_progress(console: Console, label: str = "") -> Iterator[RunCallback]:
    from cluster.reporting.callback import Callbacks
    from cluster.reporting.first_lines import FirstLines
    from cluster.reporting.progress import ProgressBars, ProgressLines

    progress = ProgressBars(console, label) if console.is_terminal else ProgressLines(print_line, label)
    try:
        yield progress if label else Callbacks(progress, FirstLines(progress.show))
    finally:
        progress.close()
