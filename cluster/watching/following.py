"""The newest page of a run or a comparison, from its directory alone: so it needs no cluster, and stays when all has ended."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from cluster.errors import ConfigError
from cluster.report.page import render, waiting_page
from cluster.report.text import shown
from cluster.reporting.replay import ReplayedStatus
from cluster.reporting.status import status_rows

_READ = ("config.yaml", "rounds.parquet", "evaluation.parquet", "probe.parquet", "summary.json")
"""Files whose change makes another page; a run replaces each whole."""
_SHOWN = ("round", "delivered", "training", "late", "no turn or room yet", "lost", "not admitted", "measured", "expected end")
"""Rows of the status that stand above the page while a run goes on."""
_OVER = ("starting", "finished")
"""States in which there is no round to speak of."""


def newest_run(runs: Path) -> Path:
    """The run or comparison in `runs` that began last; raises ConfigError where there is none."""
    found = [*runs.glob("*/config.yaml"), *runs.glob("*/*/config.yaml")]
    if not found:
        raise ConfigError(f"{runs} holds no run; name the run's directory: safe-fedllm watch DIR")
    newest = max(found, key=lambda file: file.stat().st_mtime)
    return runs / newest.relative_to(runs).parts[0]


class Followed:
    """A directory of a run or a comparison, and the page of what it holds. Threads may ask at once; a page is made once."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError: no run has begun there."""
        self._path, self._lock = path, threading.Lock()
        self._made_of: str | None = None
        self._page = ""
        self._told: dict[Path, ReplayedStatus] = {}
        if not self._runs():
            raise ConfigError(
                f"{path} holds no run (no config.yaml); name the directory that `run` or `compare` prints or that --output named"
            )

    def _runs(self) -> list[Path]:
        """The directory itself, or those of a comparison's runs that have begun."""
        own = self._path / "config.yaml"
        return [self._path] if own.is_file() else sorted(file.parent for file in self._path.glob("*/config.yaml"))

    def version(self) -> str:
        """Changes whenever there is something new to see."""
        seen = []
        for file in (run / name for run in self._runs() for name in _READ):
            found = file.stat() if file.exists() else None
            seen.append((str(file), found and (found.st_mtime_ns, found.st_size, found.st_ino)))
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    def progress(self) -> str:
        """A line per run that goes on: its round, and which clients have delivered, train or are late."""
        with self._lock:
            lines = [_line(run, self._status(run)) for run in self._runs() if not (run / "summary.json").is_file()]
        return "\n".join(line for line in lines if line)

    def _status(self, run: Path) -> dict[str, str]:
        if run not in self._told:
            self._told[run] = ReplayedStatus(run)
        status = self._told[run].look()
        return {} if status["state"] in _OVER else status_rows(status)

    def page(self) -> str:
        """The report of the rounds that are committed; before the first one, and where a file cannot be read, the reason."""
        with self._lock:
            version = self.version()
            if version != self._made_of:
                try:
                    self._page = render([self._path], version=version)
                except ConfigError as error:
                    self._page = waiting_page(str(error), version)
                self._made_of = version
            return self._page


def _line(run: Path, rows: dict[str, str]) -> str:
    said = "; ".join(f"{name} {rows[name]}" for name in _SHOWN if name in rows)
    return shown(f"{run.name}: {said}") if said else ""
