"""What a person reads first of a run: what the defense reads, and, once it is measured, what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from actors.messages import ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.callback import RunCallback
from defense.levels import LEVELS, probed_signals

_READS = {
    "real": "the probe, on each local step",
    "shadow": "the probe, on a shadow training",
    "update": "the probe, on the update",
    "canary": "the server's refusals",
    "validation": "the server's clean rows",
    "spectrum": "the singular values of the update",
}
_LEAST_S = 0.05
"""A part that took less is not named."""
_MEASURED = 2
"""The first rounds, of which the first trains the reference clients and the second usually does not."""


def reads(name: str) -> str:
    """What a level reads, in words."""
    level = LEVELS[name]
    if level.reads is None:
        return "compares the clients' updates" if level.compare else "weighs nothing: every admitted update counts"
    return f"reads {_READS.get(level.reads, level.reads)}"


def references(config: RunConfig) -> str | None:
    """The server's own trainings; None where the probe is not refitted."""
    if not config.refreshes:
        return None
    number = config.probe.refresh_clients
    when = "in round 1 and where clients are in doubt"
    return f"{2 * number} trainings of the server's own, {number} of each class, {when}"


class FirstLines(RunCallback):
    """Says what each level reads, then what the defense took of the first rounds' seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.perf_counter) -> None:
        self._write, self._clock, self._began = write, clock, 0.0
        self._is_probed, self._num_said = False, 0
        self._report: RoundReport | None = None

    def starting(self, config: RunConfig) -> None:
        self._is_probed = bool(probed_signals(config.defense))
        for name in config.defense.levels:
            self._write(f"level {name}: {reads(name)}")
        if own := references(config):
            self._write(f"references: {own}")

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:  # noqa: ARG002 - the time alone counts
        self._began = self._clock()

    def round_finished(self, report: RoundReport) -> None:
        self._report = report
        if not self._is_probed:
            self._say(report, self._clock() - self._began, {})

    def probe_judged(self, row: ProbeRound) -> None:
        if self._report is not None:
            self._say(self._report, row.round_s, {"references": row.refresh_wait_s or 0.0, "probe": row.score_s})

    def _say(self, report: RoundReport, round_s: float, of_probe: dict[str, float]) -> None:
        """Scores and measurements overlap the clients' training, so the parts may be more than the round was longer by."""
        parts = {**of_probe, **report.measuring_s}
        if self._num_said == _MEASURED or not parts:
            return
        self._num_said += 1
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items() if seconds >= _LEAST_S)
        total = f"the defense {sum(parts.values()):.1f} s" + (f": {said}" if said else "")
        first = "; reference clients trained in this round" if of_probe.get("references") else ""
        self._write(f"round {report.round + 1} took {round_s:.1f} s, {total}{first}")
