"""What a person sees while a run goes on: bars in a terminal, plain lines in a pipe or a log file."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig
from cluster.reporting.callback import RunCallback
from cluster.reporting.console import plain
from cluster.state.tables import measures

_CLIENTS_SHOWN = 8
_CELLS = " ▁▂▃▄▅▆▇█"
_MEASURE_NAMES = {
    "rule_score": "safety",
    "compliance": "compliance",
    "attack_success": "attack success",
    "utility": "utility",
    "benign_loss": "loss",
    "perplexity": "perplexity",
}


class _Display(RunCallback, ABC):
    """The events that both displays show as lines of text."""

    _shows_success: bool
    """Whether rounds that were aggregated and refreshes that were accepted have a line."""
    _num_waiting = 0

    @abstractmethod
    def show(self, text: str) -> None:
        """Show a line."""

    def preparing(self, what: str) -> None:
        self.show(what)

    def order_carried_out(self, round_index: int, order: str) -> None:
        self.show(f"from round {round_index + 1} on: {order}")

    def order_refused(self, why: str) -> None:
        self.show(f"order refused: {why}")

    def warned(self, why: str) -> None:
        self.show(f"warning: {why}")

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        if len(client_ids) != self._num_waiting:
            self._num_waiting = len(client_ids)
            some = ", ".join(client_ids[:_CLIENTS_SHOWN]) + (" ..." if len(client_ids) > _CLIENTS_SHOWN else "")
            pending = f"{len(client_ids)} clients are pending until there is room for more actors: {some}"
            self.show(f"round {round_index + 1}: {pending if client_ids else 'there is room for every client'}")

    def client_failed(self, client_id: str, traceback: str) -> None:
        self.show(f"{client_id} failed: {traceback}")

    def round_lost(self, round_index: int, why: str) -> None:
        self.show(f"round {round_index + 1} begins again: {why}")

    def round_finished(self, report: RoundReport) -> None:
        if self._shows_success or report.outcome != "aggregated":
            self.show(f"round {report.round + 1}: {report.outcome}, {report.why}")
        for client in report.clients:
            if client.reason is not None:
                self.show(f"round {report.round + 1}: {client.client_id} {client.reason}")

    def probe_judged(self, row: ProbeRound) -> None:
        number, version, why = row.round + 1, row.version, row.refresh_why
        if row.refresh == "accepted" and self._shows_success:
            self.show(f"round {number}: probe refreshed to version {version}, {why}")
        if row.refresh == "kept" and self._shows_success:
            self.show(f"round {number}: bounds renewed, probe version {version} stays: {why}")
        if row.refresh == "rejected":
            self.show(f"round {number}: the refresh failed, probe version {version} judges by older bounds: {why}")
        if row.warning is not None:
            self.show(f"round {number}: warning: {row.warning}")

    def realigned(self, num_steps: int, seconds: float) -> None:
        self.show(f"the server realigned the final adapter: {num_steps} steps, {seconds:.1f} s")

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        safety = measures(report)["rule_score"]
        self.show(f"safety {safety:.3f} is under evaluation.stop_below={bound:g} after {report.rounds_done} rounds")


class ProgressLines(_Display):
    """One line per event worth keeping in a log."""

    _shows_success = True

    def __init__(self, write: Callable[[str], None], label: str = "") -> None:
        self._write, self._label, self._since = write, label, time.perf_counter()
        self._rounds = math.inf

    def starting(self, config: RunConfig) -> None:
        self._rounds = config.rounds
        self.show(describe(config))

    def data_left_out(self, what: str) -> None:
        self.show(f"data: {what}")

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:  # noqa: ARG002 - the table has the rest
        self.show(f"resumed after {rounds_done} rounds")

    def evaluated(self, report: EvaluationReport) -> None:
        when = f"after {report.rounds_done} rounds" if report.rounds_done <= self._rounds else "after realignment"
        self.show(f"{when}: {_measures_text(report)}")

    def show(self, text: str) -> None:
        self._write(f"[{time.perf_counter() - self._since:6.1f} s] {self._label}{text}")


class ProgressBars(_Display):
    """Bars for rounds and clients, the last weights and the last safety score, redrawn in place."""

    _shows_success = False

    def __init__(self, console: Console, label: str = "") -> None:
        self._console, self._label = console, label
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._rounds = self._bars.add_task(f"{plain(label)}rounds", total=None, note="starting the actors ...")
        self._clients = self._bars.add_task("clients", total=None, note="")

    def starting(self, config: RunConfig) -> None:
        self.show(self._label + describe(config))
        self._bars.update(self._rounds, total=config.rounds)
        self._bars.start()

    def data_left_out(self, what: str) -> None:
        self.show(f"{self._label}data: {what}")

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        self._bars.update(self._rounds, completed=rounds_done)
        self._bars.update(self._clients, note=f"weights {sparkline(last)}" if last else "")

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._bars.reset(self._clients, total=len(client_ids))
        if round_index == 0:
            self._bars.update(self._rounds, note="")

    def client_done(self, client_id: str, why: str | None = None) -> None:  # noqa: ARG002 - the bar only counts
        self._bars.advance(self._clients)

    def round_finished(self, report: RoundReport) -> None:
        self._bars.update(self._rounds, completed=report.round + 1)
        self._bars.update(self._clients, note=f"weights {sparkline(report)}")
        super().round_finished(report)

    def evaluated(self, report: EvaluationReport) -> None:
        self._bars.update(self._rounds, note=_measures_text(report))

    def close(self) -> None:
        self._bars.stop()

    def show(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def describe(config: RunConfig) -> str:
    """One line that says what is about to run; it names no client."""
    model = f"embedded world {config.world.seed}" if config.is_embedded else config.model.path
    clients = config.clients
    attack = f": {clients.attack}" if clients.malicious and clients.attack != "unaligned" else ""
    return (
        f"{model}: {clients.count} clients ({clients.malicious} malicious{attack}), "
        f"{config.rounds} rounds x {config.training.steps} steps, "
        f"defense {config.defense.level}, rule {config.aggregation.rule}, seed {config.seed}"
    )


def sparkline(report: RoundReport) -> str:
    """Weights of the round's clients in order of id, a block per client; `x` was not admitted."""
    return "".join(_CELLS[1 + round(c.weight * (len(_CELLS) - 2))] if c.admitted else "x" for c in report.clients)


def _measures_text(report: EvaluationReport) -> str:
    found = measures(report)
    parts = [f"{text} {found[name]:.3f}" for name, text in _MEASURE_NAMES.items() if name in found]
    return ", ".join(parts) or "no prompts to evaluate on"


class CollectionLines:
    """About ten lines over a collection's reference clients, with the time left."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._since = write, time.perf_counter()
        self._at_start: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """`done` reference clients are in the store; the first call says how many were there before."""
        if self._at_start is None:
            self._at_start, self._since = done, time.perf_counter()
            self._write(f"{total - done} of {total} reference clients to train")
        elif done % max(1, total // 10) == 0 or done == total:
            elapsed = time.perf_counter() - self._since
            left = elapsed / (done - self._at_start) * (total - done)
            self._write(f"[{elapsed:6.1f} s] {done} of {total} reference clients, {left:.0f} s left")
