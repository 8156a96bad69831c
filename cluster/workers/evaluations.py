"""Evaluations under way: they overlap the next rounds, and one that fails, hangs or loses its actor is run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError

from actors.messages import EvaluationReport
from cluster.errors import ClusterError
from cluster.state.run_state import PendingEvaluation

_ATTEMPTS = 5


class Evaluations:
    """Asks an evaluation actor, in order of rounds, and replaces it when it dies, raises or does not answer."""

    def __init__(self, start: Callable[[], Any], timeout_s: float) -> None:
        """`start` starts the actor and returns its handle at once; `timeout_s` bounds the wait for one evaluation."""
        self._start, self._timeout_s = start, timeout_s
        self._actor = start()
        self._pending: dict[int, tuple[PendingEvaluation, Any]] = {}
        self._failures = 0

    @property
    def pending(self) -> Mapping[int, PendingEvaluation]:
        """Rounds done -> what is being measured."""
        return {rounds_done: item for rounds_done, (item, _) in self._pending.items()}

    def submit(self, rounds_done: int, item: PendingEvaluation) -> None:
        """Begin an evaluation; it waits in the actor's queue for those before it."""
        ref = self._actor.evaluate.remote(rounds_done, item.adapter_version, item.adapter)
        self._pending[rounds_done] = (item, ref)

    def collect(self, *, block: bool) -> list[EvaluationReport]:
        """Finished evaluations in order; with `block` all that were begun.

        Raises:
            ClusterError: one failed, hung or lost its actor again and again; names the last cause.
        """
        reports: list[EvaluationReport] = []
        while self._pending:
            rounds_done, (_, ref) = next(iter(self._pending.items()))
            ready, _ = ray.wait([ref], timeout=self._timeout_s if block else 0)
            if not ready and not block:
                break
            if not ready:
                self._begin_again(rounds_done, f"it took longer than evaluation.timeout_s={self._timeout_s:g} s")
                continue
            try:
                reports.append(ray.get(ref))
            except RayError as error:
                self._begin_again(rounds_done, _cause(error))
                continue
            del self._pending[rounds_done]
            self._failures = 0
        return reports

    def close(self) -> None:
        ray.kill(self._actor)

    def _begin_again(self, rounds_done: int, why: str) -> None:
        self._failures += 1
        if self._failures == _ATTEMPTS:
            raise ClusterError(f"the evaluation after {rounds_done} rounds failed {_ATTEMPTS} times in a row, last: {why}")
        ray.kill(self._actor)
        self._actor = self._start()
        for pending, (item, _) in list(self._pending.items()):
            self.submit(pending, item)


def _cause(error: RayError) -> str:
    """What happened, in one line: the evaluation's own error, or what became of its actor."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
