"""Killing parts of a run for real, by process id: for the fault tests and the fault benchmark."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

TITLES = {
    "client": ("ray::Client", "ray::SimulatedClient"),
    "probe": ("ray::Probe",),
    "canary": ("ray::Canary", "ray::ServerModel"),
    "aggregator": ("ray::Aggregator",),
    "evaluation": ("ray::Evaluation", "ray::ServerModel"),
    "validation": ("ray::Validation",),
    "colluders": ("ray::Colluders",),
    "control": ("ray::Control",),
    "gateway": ("ray::Gateway",),
}
"""Kind of actor -> how Ray titles its process."""


def actor_processes(kind: str, ancestor: int | None = None) -> list[psutil.Process]:
    """Living actors of a kind among the descendants of a process, by default of this one."""
    found = []
    for process in psutil.Process(ancestor).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(TITLES[kind]):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended while we looked
            continue
    return found


class Killer(threading.Thread):
    """Kills one living actor of a kind with SIGKILL, `delay_s` after `arm` was called."""

    def __init__(self, kind: str, delay_s: float, seed: int = 0) -> None:
        super().__init__(name=f"kill-{kind}", daemon=True)
        self.kind, self.killed_at = kind, None
        self._delay_s, self._rng = delay_s, random.Random(seed)

    def run(self) -> None:
        time.sleep(self._delay_s)
        processes = sorted(actor_processes(self.kind), key=lambda process: process.pid)
        if processes:
            self._rng.choice(processes).kill()
            self.killed_at = time.monotonic()


def start_run(arguments: list[str], log: Path) -> subprocess.Popen:
    """`python -m cluster run ...` as a process of its own, so that the driver itself can be killed."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", "run", *arguments], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def committed_rounds(run: Path) -> int:
    """Newest complete checkpoint of a run directory."""
    manifests = sorted(run.glob("checkpoints/round-*/manifest.json"))
    return int(manifests[-1].parent.name.removeprefix("round-").partition(".")[0]) if manifests else 0


def wait_until(condition, timeout_s: float, what: str) -> None:
    """Poll a condition; raises TimeoutError that names what was waited for."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.05)
