"""A round's scores and readings while they are under way: a reference to each, by client.

Step deltas that came together are scored in one call. Where one of them was lost with its node the whole call fails. Then each
is scored by itself, so that one client's loss costs no other client: scores do not depend on what is scored together.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.messages import ProbeScore, Reading
from actors.probe import Probe
from cluster.workers.deadlines import wait_all
from cluster.workers.deaths import fate_of

Asked = ray.ObjectRef[ProbeScore | Reading | None]
StepDeltas = Sequence[ray.ObjectRef[bytes]]


class Scores:
    """What the round has asked the probe and the actors with server data about each client."""

    def __init__(self, probe: ActorHandle[Probe] | None) -> None:
        self._probe = probe
        self._asked: dict[str, list[Asked]] = defaultdict(list)
        self._together: dict[Asked, tuple[str, ray.ObjectRef[bytes]]] = {}
        """Score of a call about several step deltas -> its client and delta, until it is there."""

    def add(self, client_id: str, score: Asked) -> None:
        """Take note of a reference to a score or a reading."""
        self._asked[client_id].append(score)

    def keep(self, client_id: str, wanted: Collection[Asked]) -> None:
        """Forget what was asked about the client, but for some of it."""
        self._asked[client_id] = [asked for asked in self._asked[client_id] if asked in wanted]

    def ask(self, client_ids: Sequence[str], deltas: StepDeltas) -> None:
        """Let the probe score several step deltas in one call, each with a reference of its own."""
        if self._probe is None:
            return
        self._settle()
        if len(deltas) == 1:
            self.add(client_ids[0], self._probe.score.remote(client_ids[0], deltas[0]))
            return
        scores = self._probe.score_batch.options(num_returns=len(deltas)).remote(client_ids, *deltas)
        for client_id, delta, score in zip(client_ids, deltas, scores, strict=True):
            self.add(client_id, score)
            self._together[score] = client_id, delta

    def wait(self, client_id: str, timeout_s: float) -> tuple[list[Asked], list[Asked]]:
        """References to the client's scores and readings: those that are there, and those that are not within this time."""
        until = time.monotonic() + timeout_s
        while True:
            asked = list(self._asked[client_id])
            there, late = wait_all(asked, max(0.0, until - time.monotonic()))
            self._settle()
            if asked == self._asked[client_id]:
                return there, late

    def _settle(self) -> None:
        """Release the deltas of calls that are answered; where one was lost, score each by itself."""
        for score in wait_all(list(self._together), 0.0)[0]:
            client_id, delta = self._together.pop(score)
            if self._probe is not None and _lacks_a_delta(score):
                asked = self._asked[client_id]
                asked[asked.index(score)] = self._probe.score.remote(client_id, delta)


def _lacks_a_delta(score: Asked) -> bool:
    """Whether a call failed because one of its step deltas is lost; the reader of the score handles any other failure."""
    try:
        ray.get(score)
    except RayError as error:
        return fate_of(error) == "object lost"
    return False
