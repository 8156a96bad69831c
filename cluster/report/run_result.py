"""What a finished run hands back to Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.state.tables import ROUNDS

if TYPE_CHECKING:
    from peft import PeftModel
    from rich.text import Text

    from cluster.report.figure import Figure
    from cluster.report.histories import History


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: where it lies and what came out. In a notebook it shows its verdict."""

    path: Path
    summary: dict[str, Any]

    @property
    def rounds(self) -> pa.Table:
        """A row per client per round, none where no round was committed; `.to_pandas()` makes a data frame of it where pandas is
        installed."""
        path = self.path / "rounds.parquet"
        return pq.read_table(path, schema=ROUNDS) if path.exists() else ROUNDS.empty_table()

    @property
    def evaluation(self) -> pa.Table:
        """A row per measure and evaluation, likewise."""
        return pq.read_table(self.path / "evaluation.parquet")

    def adapter(self) -> PeftModel:
        """The base model with the final adapter, on the CPU; within `disable_adapter()` it is the base model.

        Raises:
            ModelError: the base model cannot be loaded.
        """
        from cluster.adapter.loading import load_adapted

        return load_adapted(self.path)[0]

    @property
    def figures(self) -> dict[str, Figure]:
        """The charts of the report by name, such as `weights` and `measures`; a notebook draws each of them.

        Raises:
            ConfigError: no round was committed.
        """
        from cluster.report.figure import figures
        from cluster.report.reading import read_run

        return figures(read_run(self.path))

    @property
    def clients(self) -> dict[str, History]:
        """What became of each client over the rounds, by id; those that counted least come first. Raises as `figures`."""
        from cluster.report.histories import histories
        from cluster.report.reading import read_run

        return {item.client_id: item for item in histories(read_run(self.path))}

    def report(self) -> Path:
        """Write the run's page, report.html in its directory, and return where it lies."""
        from cluster.report.page import write_page

        return write_page([self.path], self.path / "report.html")

    def __rich__(self) -> Text:
        """The verdict for a terminal; nothing in it is markup."""
        from rich.text import Text

        from cluster.report.page import brief

        return Text(brief(self.path, "txt"))

    def _repr_html_(self) -> str:
        """The verdict for a notebook."""
        from cluster.report.page import brief

        return brief(self.path, "html")
