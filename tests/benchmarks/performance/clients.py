"""Whole runs of the embedded world by number of clients, at the default level: seconds a client, memory, checkpoint and report.

Clients train one step on one batch, so that what a client costs beside its training shows. The first round, in which reference
clients train and actors warm up, is reported by itself.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import mean

from actors.messages import RoundReport
from cluster.config.loading import load_config
from cluster.federation import Federation
from cluster.reporting.callback import RunCallback
from tests.benchmarks.performance.report import show

SETTINGS = (
    "training.steps=1",
    "training.batch_size=4",
    "data.samples_per_client=8",
    "evaluation.every=1000",
    "evaluation.max_restricted=20",
    "evaluation.max_benign=20",
    "admission.product_factor=6",  # the signs of one step's moves agree more than those of many
)
COLUMNS = ("ms_a_client", "first_round_s", "round_s", "whole_s", "peak_mb", "checkpoint_kb", "page_s", "page_mb")


class _Watch(RunCallback):
    """Seconds of each round, and whether all clients counted."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def round_started(self, round_index: int, client_ids: object) -> None:
        self._began = time.perf_counter()

    def round_finished(self, report: RoundReport) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        odd = [row for row in report.clients if not row.admitted or row.reason]
        if odd:
            raise RuntimeError(f"round {report.round}: {odd[0].client_id} was not scored or not admitted: {odd[0].reason}")


def measure(*, small: bool) -> dict[str, dict[str, float]]:
    """Number of clients -> figures."""
    found = {str(count): run(count, rounds=3) for count in ((5, 10) if small else (10, 100, 1_000))}
    show(("clients", *COLUMNS), [(count, *(figures[column] for column in COLUMNS)) for count, figures in found.items()])
    return found


def run(count: int, rounds: int) -> dict[str, float]:
    """Figures of a run, from its configuration to the written directory, and of its report."""
    watch, began = _Watch(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(None, [*SETTINGS, f"rounds={rounds}", f"clients.count={count}", "clients.malicious=0"])
        result = Federation(config, Path(folder) / "run", watch).run()
        ended = time.perf_counter()
        page = result.report()
        first, *others = watch.seconds
        return {
            "ms_a_client": 1e3 * mean(others) / count,
            "first_round_s": first,
            "round_s": mean(others),
            "whole_s": ended - began,
            "peak_mb": result.summary["peak_rss_mb"],
            "checkpoint_kb": _bytes(max((result.path / "checkpoints").glob("round-*"))) / 1e3,
            "page_s": time.perf_counter() - ended,
            "page_mb": page.stat().st_size / 1e6,
        }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
