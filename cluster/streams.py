"""Training many clients on a pool of actors: launch, relay what they stream, give up on those past their deadline.

The driver moves references only. The last item of a client's stream is its update, the one before it the last step
delta of the real branch; an item is known to be a step delta once a newer one has come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.messages import TrainTask
from cluster.pool import ClientPool

_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A client whose stream has ended; `failure` says why there is no update."""

    task: TrainTask
    update: Any = None
    """Reference to the encoded LoRAUpdate, or to the error that ended the stream."""
    last_delta: Any = None
    failure: str | None = None


@dataclass(slots=True)
class _Flight:
    """A client that is training now."""

    task: TrainTask
    actor: Any
    stream: Any
    deadline: float
    held: deque = field(default_factory=deque)
    """The newest items: the last one may be the update, the one before it the last real step delta."""


def train_all(
    pool: ClientPool,
    jobs: Iterable[tuple[TrainTask, Any]],
    *,
    timeout_s: float,
    on_delta: Callable[[TrainTask, Any], None],
) -> Iterator[Delivery]:
    """Run every (task, reference to its starting adapter) on the pool, in this order; yield each as it ends.

    Args:
        timeout_s: How long one client may train; its actor cannot be interrupted, so it is replaced.
        on_delta: Called with the task and the reference of each step delta, as they come.
    """
    waiting, flights = deque(jobs), {}
    while waiting or flights:
        while waiting and (actor := pool.take()) is not None:
            task, adapter = waiting.popleft()
            stream = actor.train.remote(task, adapter)
            flights[stream] = _Flight(task, actor, stream, time.monotonic() + timeout_s)
        ready, _ = ray.wait(list(flights), num_returns=1, timeout=_next_wait(flights.values()), fetch_local=False)
        for stream in ready:
            if not _advance(flights[stream], on_delta):
                flight = flights.pop(stream)
                pool.give_back(flight.actor)
                yield _landed(flight)
        for stream in [s for s, flight in flights.items() if time.monotonic() > flight.deadline]:
            flight = flights.pop(stream)
            pool.replace(flight.actor)
            yield Delivery(flight.task, failure=f"late: no update within clients.timeout_s={timeout_s:g} s")


def _next_wait(flights: Iterable[_Flight]) -> float:
    return max(0.0, min(_POLL_S, min(flight.deadline for flight in flights) - time.monotonic()))


def _advance(flight: _Flight, on_delta: Callable[[TrainTask, Any], None]) -> bool:
    """Take one item of a stream; False when it has ended."""
    try:
        flight.held.append(next(flight.stream))
    except StopIteration:
        return False
    if len(flight.held) > 1:
        on_delta(flight.task, flight.held[-2])
    if len(flight.held) > 2:
        flight.held.popleft()
    return True


def _landed(flight: _Flight) -> Delivery:
    update = flight.held.pop() if flight.held else None
    last_delta = flight.held.pop() if flight.held else None
    return Delivery(flight.task, update, last_delta, None if update is not None else "the client sent nothing")
