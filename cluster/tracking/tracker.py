"""What a tracker has to offer, and the listener that tells it what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.loading import flat_values
from cluster.config.schema import RunConfig
from cluster.errors import describe
from cluster.reporting.callback import RunCallback
from cluster.tracking.figures import Figures, evaluation_figures, probe_figures, round_figures


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A run as a tracker is to know it."""

    name: str
    run_id: str
    """Stays the same when the run is resumed, so that the tracker goes on where it was."""
    path: Path
    """Its directory."""
    rounds_done: int | None
    """Rounds that were committed before; None: the run is new."""


class Tracker(Protocol):
    """A run in one tracking library. Opening it and every method may raise what the library raises."""

    def set_parameters(self, values: Mapping[str, object]) -> None:
        """Dotted key of the configuration -> value as JSON has it; called once, before the first figures."""
        ...

    def log(self, figures: Figures, rounds_done: int) -> None:
        """Figures of the adapter or of the round after so many rounds; an evaluation may be of an earlier one."""
        ...

    def keep_adapter(self, folder: Path) -> None:
        """Keep the final adapter, a folder of files."""
        ...

    def close(self, *, is_whole: bool) -> None:
        """End the run there; `is_whole`: it ended without an error."""
        ...


class Listener(RunCallback):
    """Tells one tracker. What fails there is said once, and from then on the run goes on without it: no round is lost for it."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], None]) -> None:
        self._name, self._tracker, self._warn = name, tracker, warn
        self._works, self._is_whole = True, False

    def starting(self, config: RunConfig) -> None:
        self._attempt(lambda: self._tracker.set_parameters(flat_values(config)))

    def round_finished(self, report: RoundReport) -> None:
        self._attempt(lambda: self._tracker.log(round_figures(report), report.round + 1))

    def probe_judged(self, row: ProbeRound) -> None:
        self._attempt(lambda: self._tracker.log(probe_figures(row), row.round + 1))

    def evaluated(self, report: EvaluationReport) -> None:
        self._attempt(lambda: self._tracker.log(evaluation_figures(report), report.rounds_done))

    def finished(self, path: Path) -> None:
        self._is_whole = True
        self._attempt(lambda: self._tracker.keep_adapter(path / "adapter"))

    def close(self) -> None:
        self._attempt(lambda: self._tracker.close(is_whole=self._is_whole))

    def _attempt(self, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:  # a library of others, which may speak to a server that is gone
            self._works = False
            self._warn(f"tracking: {self._name} is told nothing more, the run goes on: {describe(error).line}")
