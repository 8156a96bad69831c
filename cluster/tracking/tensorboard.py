"""TensorBoard: event files in the folder `tensorboard` of the run directory. It keeps no artefacts: it is told where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from cluster.tracking.figures import Figures
from cluster.tracking.tracker import TrackedRun


class TensorBoard:
    """Figures by rounds done. What a resumed run repeats takes the place of what was there."""

    def __init__(self, run: TrackedRun) -> None:
        purge = None if run.rounds_done is None else run.rounds_done + 1
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=purge)

    def set_parameters(self, values: Mapping[str, object]) -> None:
        """As a block of code in Markdown, in which nothing is markup."""
        self._writer.add_text("parameters", "\n".join(f"    {key}: {value}" for key, value in values.items()))
        self._writer.flush()

    def log(self, figures: Figures, rounds_done: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, rounds_done)
        self._writer.flush()

    def keep_adapter(self, folder: Path) -> None:
        self._writer.add_text("adapter", f"    {folder.resolve()}")

    def close(self, *, is_whole: bool) -> None:  # noqa: ARG002 - event files have no state
        self._writer.close()
