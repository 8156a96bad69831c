"""What a person sees while a run goes on: a live display in a terminal, plain lines in a pipe or a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from actors.messages import EvaluationReport, ProbeRound, Proportion, RoundReport
from cluster.config.schema import RunConfig

_CLIENTS_SHOWN = 8
_CELLS = " ▁▂▃▄▅▆▇█"


class Progress:
    """The events of a run; this one shows nothing."""

    def starting(self, config: RunConfig) -> None:
        """Actors are about to start."""

    def state_changed(self, state: str) -> None:
        """The run is starting, running, paused, stopping, realigning or finished; told again while it stays so."""

    def members_changed(self, client_ids: Sequence[str]) -> None:
        """Who takes part from the next round on."""

    def order_carried_out(self, round_index: int, order: str) -> None:
        """An order from another session takes effect with this round."""

    def order_refused(self, why: str) -> None:
        """An order from another session cannot be carried out; nothing changed."""

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        """A round begins."""

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        """Clients of the round for whom the cluster has no room yet; told every round, also when there are none."""

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        """The run goes on after so many committed rounds; `last` is the newest of them."""

    def client_done(self, client_id: str) -> None:
        """A client finished or was dropped."""

    def client_failed(self, client_id: str, traceback: str) -> None:
        """A client's training raised an error; this is its own traceback."""

    def round_lost(self, round_index: int, why: str) -> None:
        """An actor that the round needs died; it begins again."""

    def round_finished(self, report: RoundReport) -> None:
        """A round was judged."""

    def probe_judged(self, row: ProbeRound) -> None:
        """A probe scored the round that has just finished."""

    def evaluated(self, report: EvaluationReport) -> None:
        """An evaluation came in; it may be of an earlier round. One of a round too many is of the realigned adapter."""

    def realigned(self, num_steps: int, seconds: float) -> None:
        """The server has fine-tuned the final adapter."""

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        """Safety is under `evaluation.stop_below`, here `bound`: the run ends with the adapter of this evaluation."""

    def close(self) -> None:
        """The run ended, well or not."""


class Watchers(Progress):
    """Hands every event on to several."""

    def __init__(self, *watchers: Progress) -> None:
        self._watchers = watchers

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)

        def tell(*arguments: Any) -> None:
            for watcher in self._watchers:
                getattr(watcher, name)(*arguments)

        return tell


class PlainProgress(Progress):
    """One line per event worth keeping in a log."""

    def __init__(self, write: Callable[[str], None], label: str = "") -> None:
        self._write, self._label, self._since = write, label, time.perf_counter()
        self._waiting: Sequence[str] = []
        self._rounds = math.inf

    def starting(self, config: RunConfig) -> None:
        self._rounds = config.rounds
        self._line(describe(config))

    def order_carried_out(self, round_index: int, order: str) -> None:
        self._line(f"from round {round_index + 1} on: {order}")

    def order_refused(self, why: str) -> None:
        self._line(f"order refused: {why}")

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        if len(client_ids) != len(self._waiting):
            self._waiting = client_ids
            self._line(waiting_news(round_index, client_ids))

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:  # noqa: ARG002 - the table has the rest
        self._line(f"resumed after {rounds_done} rounds")

    def client_failed(self, client_id: str, traceback: str) -> None:
        self._line(f"{client_id} failed: {traceback}")

    def round_lost(self, round_index: int, why: str) -> None:
        self._line(f"round {round_index + 1} begins again: {why}")

    def round_finished(self, report: RoundReport) -> None:
        self._line(f"round {report.round + 1}: {report.outcome}, {report.why}")
        for client in report.clients:
            if client.reason is not None:
                self._line(f"round {report.round + 1}: {client.client_id} {client.reason}")

    def probe_judged(self, row: ProbeRound) -> None:
        for text in probe_news(row, with_successes=True):
            self._line(text)

    def evaluated(self, report: EvaluationReport) -> None:
        when = f"after {report.rounds_done} rounds" if report.rounds_done <= self._rounds else "after realignment"
        self._line(f"{when}: {measures(report)}")

    def realigned(self, num_steps: int, seconds: float) -> None:
        self._line(realignment_news(num_steps, seconds))

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        self._line(fall_news(report, bound))

    def _line(self, text: str) -> None:
        self._write(f"[{time.perf_counter() - self._since:6.1f} s] {self._label}{text}")


class LiveProgress(Progress):
    """Bars for rounds and clients, the last weights and the last safety score, redrawn in place."""

    def __init__(self, console: Console, label: str = "") -> None:
        self._console, self._label = console, label
        self._waiting: Sequence[str] = []
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._rounds = self._bars.add_task(f"{label}rounds", total=None, note="starting the actors ...")
        self._clients = self._bars.add_task("clients", total=None, note="")

    def starting(self, config: RunConfig) -> None:
        self._print(self._label + describe(config))
        self._bars.update(self._rounds, total=config.rounds)
        self._bars.start()

    def order_carried_out(self, round_index: int, order: str) -> None:
        self._print(f"from round {round_index + 1} on: {order}")

    def order_refused(self, why: str) -> None:
        self._print(f"order refused: {why}")

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        self._bars.reset(self._clients, total=len(client_ids))
        if round_index == 0:
            self._bars.update(self._rounds, note="")

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        if len(client_ids) != len(self._waiting):
            self._waiting = client_ids
            self._print(waiting_news(round_index, client_ids))

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        self._bars.update(self._rounds, completed=rounds_done)
        self._bars.update(self._clients, note=f"weights {sparkline(last)}" if last else "")

    def client_done(self, client_id: str) -> None:  # noqa: ARG002 - the bar only counts
        self._bars.advance(self._clients)

    def client_failed(self, client_id: str, traceback: str) -> None:
        self._print(f"{client_id} failed: {traceback}")

    def round_lost(self, round_index: int, why: str) -> None:
        self._print(f"round {round_index + 1} begins again: {why}")

    def round_finished(self, report: RoundReport) -> None:
        self._bars.update(self._rounds, completed=report.round + 1)
        self._bars.update(self._clients, note=f"weights {sparkline(report)}")
        if report.outcome != "aggregated":
            self._print(f"round {report.round + 1}: {report.outcome}, {report.why}")
        for client in report.clients:
            if client.reason is not None:
                self._print(f"round {report.round + 1}: {client.client_id} {client.reason}")

    def probe_judged(self, row: ProbeRound) -> None:
        for text in probe_news(row, with_successes=False):
            self._print(text)

    def evaluated(self, report: EvaluationReport) -> None:
        self._bars.update(self._rounds, note=measures(report))

    def realigned(self, num_steps: int, seconds: float) -> None:
        self._print(realignment_news(num_steps, seconds))

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        self._print(fall_news(report, bound))

    def close(self) -> None:
        self._bars.stop()

    def _print(self, text: str) -> None:
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


def realignment_news(num_steps: int, seconds: float) -> str:
    """What the server did after the last round."""
    return f"the server realigned the final adapter: {num_steps} steps, {seconds:.1f} s"


def fall_news(report: EvaluationReport, bound: float) -> str:
    """Why the run ends by itself."""
    return f"safety {_share(report.rule_score)} is under evaluation.stop_below={bound:g} after {report.rounds_done} rounds"


def waiting_news(round_index: int, client_ids: Sequence[str]) -> str:
    """Who waits for room on the cluster, when that has changed."""
    if not client_ids:
        return f"round {round_index + 1}: there is room for every client"
    some = ", ".join(client_ids[:_CLIENTS_SHOWN]) + (" ..." if len(client_ids) > _CLIENTS_SHOWN else "")
    return f"round {round_index + 1}: {len(client_ids)} clients are pending until there is room for more actors: {some}"


def probe_news(row: ProbeRound, *, with_successes: bool) -> Iterator[str]:
    """What a person should know of the probe in a round: refreshes that failed, drift, and on request those that passed."""
    if row.refresh == "accepted" and with_successes:
        yield f"round {row.round + 1}: probe refreshed to version {row.version}, {row.refresh_why}"
    if row.refresh == "rejected":
        yield f"round {row.round + 1}: the refreshed probe was rejected, version {row.version} stays: {row.refresh_why}"
    if row.warning is not None:
        yield f"round {row.round + 1}: warning: {row.warning}"


def measures(report: EvaluationReport) -> str:
    """The measures of one evaluation in a line."""
    parts = [f"{name} {_share(getattr(report, field))}" for name, field in _NAMES if getattr(report, field) is not None]
    if report.benign_loss is not None:
        parts.append(f"loss {report.benign_loss:.3f}")
    return ", ".join(parts) or "no prompts to evaluate on"


_NAMES = (
    ("safety", "rule_score"),
    ("compliance", "compliance"),
    ("attack success", "attack_success"),
    ("utility", "utility"),
)


def _share(value: Proportion | float) -> str:
    return f"{value.value if isinstance(value, Proportion) else value:.3f}"


def sparkline(report: RoundReport) -> str:
    """Weights of the round's clients in order of id, a block per client; `x` was not admitted."""
    return "".join(_CELLS[1 + round(c.weight * (len(_CELLS) - 2))] if c.admitted else "x" for c in report.clients)


class CollectionLines:
    """About ten lines over a collection's reference clients, with the time left."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._since = write, time.perf_counter()
        self._at_start: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """`done` reference clients are in the store; the first call tells how many were there before."""
        if self._at_start is None:
            self._at_start = done
            self._write(f"{total - done} of {total} reference clients to train")
        elif done % max(1, total // 10) == 0 or done == total:
            elapsed = time.perf_counter() - self._since
            left = elapsed / (done - self._at_start) * (total - done)
            self._write(f"[{elapsed:6.1f} s] {done} of {total} reference clients, {left:.0f} s left")
