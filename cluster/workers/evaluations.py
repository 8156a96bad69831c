"""Evaluations under way: they overlap the next rounds, and one that fails, hangs or loses its actor is run again.

While rounds go on, a death of the actor costs time only. Errors of the evaluation's own code are counted always, deaths where the
run waits for nothing else, and five in a row end the run.
Where there is no prompt no actor is started, and every report is empty.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.messages import EvaluationReport
from cluster.errors import ClusterError
from cluster.state.run_state import PendingEvaluation
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import fate_of
from cluster.workers.server_actor import ServerActor

_ATTEMPTS = 5
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """An evaluation under way; without an actor nothing is."""

    item: PendingEvaluation
    handle: ActorHandle | None = None
    ref: ObjectRef[EvaluationReport] | None = None


class Evaluations:
    """Asks an evaluation actor, in order of rounds, and replaces it when it dies, raises or does not answer."""

    def __init__(self, actor: ServerActor[Any] | None, timeout_s: float) -> None:
        """Ask this actor.

        Args:
            actor: Of an `Evaluation`, or of a `ServerModel`, which others may replace too; None: there is nothing to measure.
            timeout_s: Bounds the wait for one evaluation.
        """
        self._actor, self._timeout_s = actor, timeout_s
        self._pending: dict[int, _Asked] = {}
        self._failures = 0

    @property
    def pending(self) -> Mapping[int, PendingEvaluation]:
        """Rounds done -> what is being measured."""
        return {rounds_done: asked.item for rounds_done, asked in self._pending.items()}

    def submit(self, rounds_done: int, item: PendingEvaluation) -> None:
        """Begin an evaluation; it waits in the actor's queue for those before it."""
        if self._actor is None:
            self._pending[rounds_done] = _Asked(item)
            return
        handle = self._actor.handle
        ref = handle.evaluate.remote(rounds_done, item.adapter_version, item.adapter)
        self._pending[rounds_done] = _Asked(item, handle, ref)

    def collect(self, *, block: bool) -> list[EvaluationReport]:
        """Finished evaluations in order; with `block` all that were begun.

        Raises:
            ClusterError: one failed again and again, or, with `block`, hung or lost its actor; names the last cause.
        """
        reports: list[EvaluationReport] = []
        while self._pending:
            rounds_done, asked = next(iter(self._pending.items()))
            ref = asked.ref
            if ref is None:
                reports.append(_empty(rounds_done, asked.item))
                del self._pending[rounds_done]
                continue
            ready, _ = ray.wait([ref], timeout=self._timeout_s if block else 0)
            if not ready and not block:
                break
            if not ready:
                self._begin_again(rounds_done, f"it took longer than evaluation.timeout_s={self._timeout_s:g} s", counts=True)
                continue
            try:
                reports.append(ray.get(ref))
            except RayError as error:
                cause = getattr(error, "cause", None) or error  # the evaluation's own error, or what became of its actor
                counts = block or fate_of(error) == "raised"
                self._begin_again(rounds_done, f"{type(cause).__name__}: {first_line(cause)}", counts=counts)
                continue
            del self._pending[rounds_done]
            self._failures = 0
        return reports

    def _begin_again(self, rounds_done: int, why: str, *, counts: bool) -> None:
        _LOG.warning("the evaluation after %d rounds begins again: %s", rounds_done, why)
        self._failures += counts
        if self._failures == _ATTEMPTS:
            raise ClusterError(f"the evaluation after {rounds_done} rounds failed {_ATTEMPTS} times in a row, last: {why}")
        if self._actor is not None and self._actor.handle is self._pending[rounds_done].handle:  # nobody else has replaced it
            self._actor.replace()
        for pending, asked in list(self._pending.items()):
            self.submit(pending, asked.item)


def _empty(rounds_done: int, item: PendingEvaluation) -> EvaluationReport:
    nothing = dict.fromkeys(("rule_score", "compliance", "over_refusal", "utility", "benign_loss"))
    return EvaluationReport(rounds_done=rounds_done, adapter_version=item.adapter_version, seconds=0.0, **nothing)
