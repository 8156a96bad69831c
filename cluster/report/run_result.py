"""What a finished run hands back to Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: where it lies and what came out."""

    path: Path
    summary: dict[str, Any]

    @property
    def rounds(self) -> pa.Table:
        """A row per client per round; `.to_pandas()` where pandas is installed."""
        return pq.read_table(self.path / "rounds.parquet")

    @property
    def evaluation(self) -> pa.Table:
        """A row per measure and evaluation."""
        return pq.read_table(self.path / "evaluation.parquet")

    def report(self) -> Path:
        """Write the run's page, report.html in its directory, and return where it lies."""
        from cluster.report.page import write_page

        return write_page([self.path], self.path / "report.html")
