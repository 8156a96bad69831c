"""Peak memory of the run: the summed proportional set size of this process and its descendants."""

from __future__ import annotations

import threading
import time

import psutil

_SHARE_OF_TIME = 0.02
"""How much of the time sampling may take: reading the page tables of a dozen processes is not free."""


class PeakMemory:
    """Samples in a background thread between `start` and `stop`. Only processes of this machine are seen."""

    def __init__(self, interval_s: float = 1.0) -> None:
        """`interval_s`: least seconds between samples."""
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
        while True:
            began = time.perf_counter()
            self._peak_bytes = max(self._peak_bytes, tree_pss_bytes())
            if self._stop.wait(max(self._interval_s, (time.perf_counter() - began) / _SHARE_OF_TIME)):
                return


def tree_pss_bytes() -> int:
    """Proportional set size of this process and all its descendants; shared pages count once in the sum."""
    me = psutil.Process()
    return sum(_pss_bytes(process) for process in [me, *me.children(recursive=True)])


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return getattr(process.memory_full_info(), "pss", 0)  # Linux alone counts it
    except psutil.Error:  # it ended, or is not ours to read
        return 0
