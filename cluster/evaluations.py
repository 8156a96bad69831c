"""Evaluations under way: they overlap the next rounds, and one whose actor died is run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.messages import EvaluationReport
from cluster.errors import ClusterError, DeadlineError
from cluster.run_state import PendingEvaluation

_ATTEMPTS = 5


class Evaluations:
    """Asks an evaluation actor, in order of rounds, and replaces it when it dies or does not answer."""

    def __init__(self, start: Callable[[], Any], timeout_s: float) -> None:
        """`start` starts the actor and returns its handle at once; `timeout_s` bounds one evaluation."""
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
            DeadlineError: one took longer than `timeout_s`. ClusterError: the actor died again and again.
        """
        reports: list[EvaluationReport] = []
        deadline = time.monotonic() + self._timeout_s
        while self._pending:
            rounds_done, (_, ref) = next(iter(self._pending.items()))
            ready, _ = ray.wait([ref], timeout=max(0.0, deadline - time.monotonic()) if block else 0)
            if not ready:
                if not block:
                    break
                raise DeadlineError(f"an evaluation took longer than evaluation.timeout_s={self._timeout_s:g} s")
            try:
                reports.append(ray.get(ref))
            except RayActorError as error:
                self._begin_again(error)
                continue
            del self._pending[rounds_done]
            self._failures, deadline = 0, time.monotonic() + self._timeout_s
        return reports

    def close(self) -> None:
        ray.kill(self._actor)

    def _begin_again(self, error: RayActorError) -> None:
        self._failures += 1
        if self._failures == _ATTEMPTS:
            raise ClusterError(f"the evaluation actor died {_ATTEMPTS} times in a row: {error}") from error
        ray.kill(self._actor)
        self._actor = self._start()
        for rounds_done, (item, _) in list(self._pending.items()):
            self.submit(rounds_done, item)
