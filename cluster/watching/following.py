"""The newest page of a run, from its directory alone: so it needs no cluster, and stays when the run has ended."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from cluster.errors import ConfigError
from cluster.report.page import render, waiting_page

_READ = ("config.yaml", "rounds.parquet", "evaluation.parquet", "probe.parquet", "summary.json")
"""Files whose change makes another page; a run replaces each whole."""


def newest_run(runs: Path) -> Path:
    """The run directory in `runs` that began last; raises ConfigError where there is none."""
    found = sorted(runs.glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ConfigError(f"{runs} holds no run; name the run's directory: safe-fedllm watch DIR")
    return found[-1].parent


class FollowedRun:
    """A run directory, and the page of what it holds. Threads may ask at once; a page is made once."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError: no run has begun there."""
        if not (path / "config.yaml").is_file():
            raise ConfigError(
                f"{path} holds no run (no config.yaml); name the directory that `run` prints or that --output named"
            )
        self._path, self._lock = path, threading.Lock()
        self._made_of: str | None = None
        self._page = ""

    def version(self) -> str:
        """Changes whenever there is something new to see."""
        seen = []
        for name in _READ:
            file = self._path / name
            found = file.stat() if file.exists() else None
            seen.append((name, found and (found.st_mtime_ns, found.st_size, found.st_ino)))
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

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
