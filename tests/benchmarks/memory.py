"""Memory of a long run: `python -m tests.benchmarks.memory --rounds 200 --clients 20`.

The clients of the embedded world train one step a round, so that what grows with rounds shows soon. After some of the rounds it
prints the memory that belongs to each process alone (unique set size), and what lies in Ray's object store. The last line is a
JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil
import ray

from actors.messages import RoundReport
from cluster.config.loading import load_config
from cluster.federation import Federation
from cluster.reporting.callback import RunCallback
from tests.chaos import actor_processes

ACTORS = ("aggregator", "probe", "canary", "control")
SETTINGS = (
    "defense.level=live+canary+spectrum+consensus",
    "probe.refresh_every=0",
    "probe.threshold=0.6",  # without a refresh nothing gives the bounds
    "defense.canary.max_rise=0.5",
    "defense.spectrum.max_flatness=0.9",
    "defense.consensus.min_cosine=-0.1",
    "training.steps=1",
    "training.batch_size=4",
    "data.samples_per_client=8",
    "evaluation.every=1000",
    "evaluation.max_restricted=20",
    "evaluation.max_benign=20",
    "evaluation.max_canary=8",
)
_MB = 1e6


class _Watch(RunCallback):
    """Measures after the given rounds, counted from 1."""

    def __init__(self, rounds: list[int]) -> None:
        self.measured: dict[int, dict[str, float]] = {}
        self._rounds, self._began = rounds, time.monotonic()

    def round_finished(self, report: RoundReport) -> None:
        if (number := report.round + 1) in self._rounds:
            self.measured[number] = _memory_mb()
            print(f"round {number}, {time.monotonic() - self._began:.0f} s: {self.measured[number]}", flush=True)


def main(rounds: int, clients: int, malicious: int) -> None:
    """Run, and print what was measured after a tenth, a half and all of the rounds."""
    watch = _Watch(sorted({max(1, rounds // 10), rounds // 2, rounds}))
    settings = [*SETTINGS, f"rounds={rounds}", f"clients.count={clients}", f"clients.malicious={malicious}"]
    with tempfile.TemporaryDirectory() as folder:
        Federation(load_config(None, settings), Path(folder) / "run", watch).run()
    print(json.dumps({"rounds": rounds, "clients": clients, "mb": watch.measured}))


def _memory_mb() -> dict[str, float]:
    """Megabytes (1e6 bytes) of the driver, of each of the server's actors, and of the object store."""
    found = {"driver": _unique_mb(psutil.Process())}
    found |= {kind: _unique_mb(process) for kind in ACTORS for process in actor_processes(kind)}
    name = "object_store_memory"
    used = ray.cluster_resources().get(name, 0.0) - ray.available_resources().get(name, 0.0)
    return {**found, "object store": round(used / _MB, 1)}


def _unique_mb(process: psutil.Process) -> float:
    return round(process.memory_full_info().uss / _MB, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--malicious", type=int, default=4)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.clients, arguments.malicious)
