"""A round's scores and readings while they are under way: a reference to each, by client.

Step deltas that came together are scored in one call. Where one of them was lost with its node the whole call fails, and each
is asked about by itself, so that nobody's loss is another's: scores do not depend on what is scored together.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayError


class Scores:
    """What has been asked of probe and meters about each client of one round."""

    def __init__(self, probe: Any | None) -> None:
        self._probe = probe
        self._asked: dict[str, list[Any]] = defaultdict(list)
        self._together: dict[Any, tuple[str, Any]] = {}
        """Score of a call about several step deltas -> its client and delta, until it is there."""

    def add(self, client_id: str, score: Any) -> None:
        """Take note of a reference to a score or a reading."""
        self._asked[client_id].append(score)

    def ask(self, client_ids: Sequence[str], deltas: Sequence[Any]) -> None:
        """Ask the probe about several step deltas in one call, each with a reference of its own."""
        self._settle()
        if len(deltas) == 1:
            self.add(client_ids[0], self._probe.score.remote(client_ids[0], deltas[0]))
            return
        scores = self._probe.score_batch.options(num_returns=len(deltas)).remote(client_ids, *deltas)
        for client_id, delta, score in zip(client_ids, deltas, scores, strict=True):
            self.add(client_id, score)
            self._together[score] = client_id, delta

    def wait(self, client_id: str, timeout_s: float) -> tuple[list[Any], list[Any]]:
        """References to the client's scores and readings: those that are there, and those that are not within this time."""
        until = time.monotonic() + timeout_s
        while True:
            asked = list(self._asked[client_id])
            there, late = wait_all(asked, max(0.0, until - time.monotonic()))
            self._settle()
            if asked == self._asked[client_id]:
                return there, late

    def _settle(self) -> None:
        """Release the deltas of calls that are answered; after one that was lost, ask about each by itself."""
        for score in wait_all(list(self._together), 0.0)[0]:
            client_id, delta = self._together.pop(score)
            if _lacks_a_delta(score):
                asked = self._asked[client_id]
                asked[asked.index(score)] = self._probe.score.remote(client_id, delta)


def wait_all(refs: Sequence[Any], timeout_s: float) -> tuple[list[Any], list[Any]]:
    """References that are ready within this time, and the others, each in their order."""
    return ray.wait(list(refs), num_returns=len(refs), timeout=timeout_s) if refs else ([], [])


def _lacks_a_delta(score: Any) -> bool:
    """Whether a call failed because a step delta that it was given is lost; any other failure is left to who reads it."""
    try:
        ray.get(score)
    except ObjectLostError:
        return True
    except RayError:
        return False
    return False
