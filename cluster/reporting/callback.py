"""The events of a run, and the callbacks that receive them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.config.schema import RunConfig


class RunCallback:
    """Receives the events of a run. No method does anything here: a callback overrides those of the events that it needs."""

    def preparing(self, what: str) -> None:
        """What the run needs is being made before it starts."""

    def starting(self, config: RunConfig) -> None:
        """The actors are about to start."""

    def data_left_out(self, what: str) -> None:
        """Rows or files of the data are not used: which, how many and why."""

    def resumed(self, rounds_done: int, last: RoundReport | None) -> None:
        """The run goes on after this many committed rounds; `last` is the newest of them."""

    def warned(self, why: str) -> None:
        """Something that costs no work, but that a person should know."""

    def state_changed(self, state: str) -> None:
        """The run is starting, running, paused, stopping, realigning or finished; repeated while the state stays the same."""

    def members_changed(self, client_ids: Sequence[str]) -> None:
        """From the next round on, these clients take part."""

    def order_carried_out(self, round_index: int, order: str) -> None:
        """An order from another session takes effect with this round."""

    def order_refused(self, why: str) -> None:
        """An order from another session cannot be carried out; nothing changed."""

    def round_started(self, round_index: int, client_ids: Sequence[str]) -> None:
        """A round begins with these clients."""

    def clients_waiting(self, round_index: int, client_ids: Sequence[str]) -> None:
        """The cluster has no room yet for these clients of the round; sent in every round, also when there are none."""

    def client_done(self, client_id: str, why: str | None = None) -> None:
        """A client has delivered; with `why`, it has ended or was dropped without an update, and this is the reason."""

    def client_failed(self, client_id: str, traceback: str) -> None:
        """A client's training raised an error, with this traceback."""

    def round_lost(self, round_index: int, why: str) -> None:
        """An actor that the round needs died; the round begins again."""

    def round_finished(self, report: RoundReport) -> None:
        """A round was committed."""

    def probe_judged(self, row: ProbeRound) -> None:
        """A probe scored the round that has just finished."""

    def evaluated(self, report: EvaluationReport) -> None:
        """An evaluation is done, perhaps of an earlier round. The realigned adapter's counts one round more than there were."""

    def realigned(self, num_steps: int, seconds: float) -> None:
        """The server has fine-tuned the final adapter."""

    def safety_fell(self, report: EvaluationReport, bound: float) -> None:
        """Safety is under `evaluation.stop_below`, here `bound`: the run ends with the adapter of this evaluation."""

    def finished(self, path: Path) -> None:
        """The run ended without an error, and this directory holds all that it wrote."""

    def close(self) -> None:
        """The run ended, with or without an error."""


def _each(event: Callable[[RunCallback], Callable[..., None]]) -> Callable[..., None]:
    """A method that hands an event on. `event`: a callback -> its own method for the event."""

    def hand_on(self: Callbacks, *arguments: object) -> None:
        for callback in self.callbacks:
            event(callback)(*arguments)

    return hand_on


class Callbacks(RunCallback):
    """Hands every event on to several callbacks, in the order in which they were given."""

    def __init__(self, *callbacks: RunCallback) -> None:
        self.callbacks = callbacks

    preparing = _each(lambda to: to.preparing)
    starting = _each(lambda to: to.starting)
    data_left_out = _each(lambda to: to.data_left_out)
    resumed = _each(lambda to: to.resumed)
    warned = _each(lambda to: to.warned)
    state_changed = _each(lambda to: to.state_changed)
    members_changed = _each(lambda to: to.members_changed)
    order_carried_out = _each(lambda to: to.order_carried_out)
    order_refused = _each(lambda to: to.order_refused)
    round_started = _each(lambda to: to.round_started)
    clients_waiting = _each(lambda to: to.clients_waiting)
    client_done = _each(lambda to: to.client_done)
    client_failed = _each(lambda to: to.client_failed)
    round_lost = _each(lambda to: to.round_lost)
    round_finished = _each(lambda to: to.round_finished)
    probe_judged = _each(lambda to: to.probe_judged)
    evaluated = _each(lambda to: to.evaluated)
    realigned = _each(lambda to: to.realigned)
    safety_fell = _each(lambda to: to.safety_fell)
    finished = _each(lambda to: to.finished)
    close = _each(lambda to: to.close)
