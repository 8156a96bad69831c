"""Peak memory of the run: the summed proportional set size of this process and its descendants."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

_GROWTH = 1.01
"""Of the resident set size from one measurement to the next. Reading the page tables of a dozen processes takes a tenth of a
second or more, so they are read only where there may be a new peak."""


class PeakMemory:
    """Samples in a background thread between `start` and `stop`. Only processes of this machine are seen."""

    def __init__(self, interval_s: float = 1.0) -> None:
        """`interval_s`: seconds between samples."""
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._peak_bytes = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> float:
        """End sampling and return the peak in MB (1e6 bytes)."""
        self._stop.set()
        self._thread.join()
        return self._peak_bytes / 1e6

    def _watch(self) -> None:
        resident = 0.0
        while True:
            if (now := tree_rss_bytes()) > _GROWTH * resident:
                resident = now
                self._peak_bytes = max(self._peak_bytes, tree_pss_bytes())
            if self._stop.wait(self._interval_s):
                return


def tree_pss_bytes() -> int:
    """Proportional set size of this process and all its descendants; shared pages count once in the sum."""
    return _sum_of_tree(lambda process: getattr(process.memory_full_info(), "pss", 0))  # Linux alone counts it


def tree_rss_bytes() -> int:
    """Resident set size of the same processes, in which shared pages count for each; at once."""
    return _sum_of_tree(lambda process: process.memory_info().rss)


def _sum_of_tree(size: Callable[[psutil.Process], int]) -> int:
    me = psutil.Process()
    return sum(_readable(size, process) for process in [me, *me.children(recursive=True)])


def _readable(size: Callable[[psutil.Process], int], process: psutil.Process) -> int:
    try:
        return size(process)
    except psutil.Error:  # it ended, or is not ours to read
        return 0
