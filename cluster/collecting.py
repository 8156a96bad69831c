"""One round's traffic: train clients on a pool of actors, relay what they stream, submit in order of client id.

The driver moves references only: a step delta goes from the client to the probe, an update from the client to the
aggregator, and neither passes through this process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from actors.errors import ClientTrainingError
from actors.messages import ProbeScore, TrainTask
from cluster.pool import ClientPool
from cluster.waiting import wait_for

_POLL_S = 1.0
_CLIENT_FAULTS = (ClientTrainingError, ActorDiedError, ActorUnavailableError)


@dataclass(slots=True)
class _Flight:
    """A client that is training now."""

    client_id: str
    actor: Any
    stream: Any
    deadline: float
    held: deque = field(default_factory=deque)
    """The newest items: the last one may be the update, the one before it the last real step delta."""
    scores: list = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Finished:
    """A client whose stream has ended; `failure` says why there is no update."""

    update: Any = None
    last_delta: Any = None
    scores: tuple = ()
    failure: str | None = None


class RoundCollector:
    """Runs the clients of one round and hands their results to the aggregator."""

    def __init__(
        self,
        pool: ClientPool,
        aggregator: Any,
        probe: Any | None,
        *,
        client_timeout_s: float,
        probe_timeout_s: float,
        call_timeout_s: float,
        on_client_done: Callable[[str], None],
    ) -> None:
        """`on_client_done` receives the id of each client that finishes or is dropped, as it happens."""
        self._pool, self._aggregator, self._probe = pool, aggregator, probe
        self._client_timeout_s, self._probe_timeout_s = client_timeout_s, probe_timeout_s
        self._call_timeout_s, self._on_client_done = call_timeout_s, on_client_done
        self._flights: dict[Any, _Flight] = {}
        self._finished: dict[str, _Finished] = {}
        self._admissions: dict[str, Any] = {}

    def collect(self, tasks: Sequence[TrainTask], adapter: Any) -> None:
        """Train every task, in order of client id; returns when each client is submitted or dropped.

        Args:
            adapter: Reference to the global adapter's bytes.
        """
        waiting = deque(sorted(tasks, key=lambda task: task.client_id))
        unsubmitted = deque(task.client_id for task in waiting)
        while waiting or self._flights:
            self._launch(waiting, adapter)
            ready, _ = ray.wait(list(self._flights), num_returns=1, timeout=self._next_wait(), fetch_local=False)
            for stream in ready:
                self._advance(self._flights[stream])
            self._expire()
            self._submit_finished(unsubmitted, deadline=None)
        self._submit_finished(unsubmitted, deadline=time.monotonic() + self._probe_timeout_s)
        self._settle_admissions()

    def _launch(self, waiting: deque[TrainTask], adapter: Any) -> None:
        while waiting and (actor := self._pool.take()) is not None:
            task = waiting.popleft()
            stream = actor.train.remote(task, adapter)
            self._flights[stream] = _Flight(task.client_id, actor, stream, time.monotonic() + self._client_timeout_s)

    def _next_wait(self) -> float:
        soonest = min(flight.deadline for flight in self._flights.values())
        return max(0.0, min(_POLL_S, soonest - time.monotonic()))

    def _advance(self, flight: _Flight) -> None:
        """Take one item of a stream. An item is relayed to the probe once a newer one shows that it is no update."""
        try:
            flight.held.append(next(flight.stream))
        except StopIteration:
            self._land(flight)
            return
        if len(flight.held) > 1:
            self._score(flight, flight.held[-2])
        if len(flight.held) > 2:
            flight.held.popleft()

    def _score(self, flight: _Flight, delta: Any) -> None:
        if self._probe is not None:
            flight.scores.append(self._probe.score.remote(flight.client_id, delta))

    def _land(self, flight: _Flight) -> None:
        del self._flights[flight.stream]
        self._pool.give_back(flight.actor)
        update = flight.held.pop() if flight.held else None
        last_delta = flight.held.pop() if flight.held else None
        failure = None if update is not None else "the client sent nothing"
        self._finish(flight.client_id, _Finished(update, last_delta, tuple(flight.scores), failure))

    def _expire(self) -> None:
        """Drop the clients that are past their deadline; an actor cannot be interrupted, so it is replaced."""
        for flight in [f for f in self._flights.values() if time.monotonic() > f.deadline]:
            del self._flights[flight.stream]
            self._pool.replace(flight.actor)
            self._finish(
                flight.client_id, _Finished(failure=f"late: no update within clients.timeout_s={self._client_timeout_s:g} s")
            )

    def _finish(self, client_id: str, finished: _Finished) -> None:
        self._finished[client_id] = finished
        self._on_client_done(client_id)

    def _submit_finished(self, unsubmitted: deque[str], deadline: float | None) -> None:
        """Submit the finished clients in order of id: those whose scores are there, or with a deadline all of them."""
        while unsubmitted and unsubmitted[0] in self._finished:
            finished = self._finished[unsubmitted[0]]
            timeout = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
            scored, late = _wait_all(finished.scores, timeout)
            if late and deadline is None:
                return
            client_id = unsubmitted.popleft()
            del self._finished[client_id]
            if finished.failure is not None:
                self._aggregator.drop.remote(client_id, finished.failure)
                continue
            scores = [_score_or_failure(client_id, ref) for ref in scored]
            scores += [
                ProbeScore(client_id=client_id, failure=f"not scored within probe.timeout_s={self._probe_timeout_s:g} s")
                for _ in late
            ]
            self._admissions[client_id] = self._aggregator.submit.remote(client_id, finished.update, finished.last_delta, scores)

    def _settle_admissions(self) -> None:
        """Wait for the aggregator; a client whose stream ended in an error instead of an update is dropped."""
        for client_id, admission in self._admissions.items():
            try:
                wait_for(admission, self._call_timeout_s, f"submitting the update of {client_id}")
            except _CLIENT_FAULTS as error:
                self._aggregator.drop.remote(client_id, _first_line(error))
        self._admissions.clear()


def _wait_all(refs: Sequence[Any], timeout: float) -> tuple[list, list]:
    return ray.wait(list(refs), num_returns=len(refs), timeout=timeout) if refs else ([], [])


def _score_or_failure(client_id: str, ref: Any) -> ProbeScore:
    """A finished score; a probe that died or failed is a failure of the score, never a benign verdict."""
    try:
        return ray.get(ref)
    except RayError as error:
        return ProbeScore(client_id=client_id, failure=f"probe_failed: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    text = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return f"client_failed: {text}" if isinstance(error, ClientTrainingError) else f"client_lost: {text}"
