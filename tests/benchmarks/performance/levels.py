"""Whole runs of the embedded world by level of defense: seconds and peak memory, against level none."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from cluster.config.loading import load_config
from cluster.federation import Federation
from tests.benchmarks.performance.report import show

LEVELS = ("none", "step", "client", "shadow", "default")
SMALL = ("rounds=2", "evaluation.max_restricted=20", "evaluation.max_benign=20")


def measure(*, small: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Number of clients -> level -> figures of a run."""
    found = {}
    for count in (4,) if small else (10, 20):
        found[str(count)] = {level: run(level, count, SMALL if small else ()) for level in LEVELS}
        base = found[str(count)]["none"]
        for figures in found[str(count)].values():
            figures["x_none"] = figures["seconds"] / base["seconds"]
        rows = [(level, *(figures[c] for c in ("seconds", "x_none", "peak_mb"))) for level, figures in found[str(count)].items()]
        show((f"{count} clients", "seconds", "x none", "peak MB"), rows)
    return found


def run(level: str, count: int, settings: tuple[str, ...] = ()) -> dict[str, float]:
    """Seconds from the start of Ray to the written run directory, and of the rounds alone."""
    chosen = [] if level == "default" else [f"defense.level={level}"]
    config = load_config(None, [*settings, *chosen, f"clients.count={count}"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = Federation(config, Path(folder) / "run").run()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "wall_s": result.summary["wall_s"], "peak_mb": result.summary["peak_rss_mb"]}
