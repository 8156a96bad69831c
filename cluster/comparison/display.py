"""What a person sees of cells that run side by side, each in a process of its own: from the logs in their directories."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cluster.comparison.cells import Cell
from cluster.reporting.replay import ReplayedStatus
from cluster.reporting.status import status_rows

_SHOWN = ("round", "delivered", "measured", "expected end")
_LINE_EVERY_S = 60.0
"""In a pipe or a log file."""


class RunningCells:
    """A table of the cells that run, redrawn in place; lines a minute where the output is no terminal."""

    def __init__(self, console: Console, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._folder, self._clock = console, folder, clock
        self._told: dict[str, ReplayedStatus] = {}
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next = clock() + _LINE_EVERY_S

    def __enter__(self) -> RunningCells:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self, running: Sequence[Cell], num_left: int) -> None:
        """Show how far these cells are, and how many others wait."""
        if self._live is not None:
            self._live.update(self._table(running, num_left), refresh=True)
        elif self._clock() >= self._next:
            self._next = self._clock() + _LINE_EVERY_S
            for cell in running:
                said = [f"{name} {text}" for name, text in self._rows(cell).items() if name in _SHOWN]
                self._console.print(f"{cell.label}: {'; '.join(said) or 'starting'}", soft_wrap=True)

    def _table(self, running: Sequence[Cell], num_left: int) -> Table:
        table = Table("run", *_SHOWN, title=f"{len(running)} cells run, {num_left} wait", title_justify="left")
        for cell in running:
            rows = self._rows(cell)
            table.add_row(cell.label, *(rows.get(name, "") for name in _SHOWN))
        return table

    def _rows(self, cell: Cell) -> dict[str, str]:
        path = self._folder / cell.name
        if cell.name not in self._told:
            if not (path / "config.yaml").is_file():
                return {}
            self._told[cell.name] = ReplayedStatus(path)
        status = self._told[cell.name].look()
        return status_rows(status) if status["round"] else {}
