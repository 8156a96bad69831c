"""Training many clients on a pool of actors: launch, relay what they stream, give up on those past their deadline.

The driver moves references only. The last item of a client's stream is its update, the one before it the last step
delta of the real branch; an item is known to be a step delta once a newer one has come.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import ClientTrainingError
from actors.messages import TrainTask
from cluster.workers.pool import ClientPool

Job = tuple[Any, ...]
"""A task, a reference to its starting adapter, and those to what else `train` of a client actor is given."""

_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A client whose stream has ended; `failure` says why there is no update."""

    task: TrainTask
    update: Any = None
    """Reference to the encoded LoRAUpdate, or to the client's own error."""
    last_delta: Any = None
    failure: str | None = None
    lost: bool = False
    """Whether the failure is that of its actor or node, not of the client."""


@dataclass(slots=True)
class _Queue:
    """Clients that wait for an actor of a pool."""

    pool: ClientPool
    waiting: deque


@dataclass(slots=True)
class _Flight:
    """A client that is training now."""

    task: TrainTask
    pool: ClientPool
    actor: Any
    stream: Any
    deadline: float
    held: deque = field(default_factory=lambda: deque(maxlen=2))
    """The newest items: the last one may be the update, the one before it the last real step delta."""


def train_all(
    jobs: Iterable[tuple[ClientPool, Sequence[Job]]],
    *,
    timeout_s: float,
    start_timeout_s: float,
    on_deltas: Callable[[Sequence[tuple[TrainTask, Any]]], None],
) -> Iterator[Delivery]:
    """Run every job on its pool, in this order; yield each as it ends.

    An actor is back in its pool, or replaced, before the delivery of its client is yielded. An actor cannot be interrupted:
    one whose client is late is replaced, so is one that died, and so is one still training when the caller gives up, so that
    what it goes on with takes no time from whom it trains next.

    Args:
        jobs: Pools, each with what it trains.
        timeout_s: How long one client may train.
        start_timeout_s: How long clients wait for an actor to start while none trains.
        on_deltas: Called with the tasks and references of the step deltas that have come together.
    """
    queues, flights = [_Queue(pool, deque(own)) for pool, own in jobs], {}
    idle_since = time.monotonic()
    try:
        while flights or any(queue.waiting for queue in queues):
            for flight in (flight for queue in queues for flight in _launch(queue, timeout_s)):
                flights[flight.stream] = flight
            deltas, ended = [], []
            for stream in _ready(flights, [ref for queue in queues if queue.waiting for ref in queue.pool.starting]):
                flight = flights[stream]
                if not _take_item(flight):
                    ended.append(_settle(flights.pop(stream)))
                elif len(flight.held) > 1:
                    deltas.append((flight.task, flight.held[0]))
            if deltas:
                on_deltas(deltas)
            for stream in [s for s, flight in flights.items() if time.monotonic() > flight.deadline]:
                ended.append(_give_up(flights.pop(stream), timeout_s))
            yield from ended
            if flights or ended:
                idle_since = time.monotonic()
            elif time.monotonic() > idle_since + start_timeout_s:
                for task, *_ in (job for queue in queues for job in queue.waiting):
                    yield Delivery(
                        task, failure=f"pending: no client actor for cluster.start_timeout_s={start_timeout_s:g} s", lost=True
                    )
                return
    finally:
        for flight in flights.values():
            flight.pool.replace(flight.actor)


def shortfall(delivery: Delivery, num_deltas: int, num_steps: int) -> str | None:
    """Why a client that should have sent a delta of every step has not; None when it has."""
    if delivery.failure is not None or num_deltas == num_steps:
        return delivery.failure
    try:
        ray.get(delivery.update)
    except RayError as error:  # Ray raises a client's own error as a RayTaskError of both classes
        return client_failure(error)
    return f"{num_deltas} step deltas of {num_steps} steps"


def first_line(error: BaseException) -> str:
    """What happened, in one line; of an error that crossed processes, its cause."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def client_failure(error: BaseException) -> str:
    """What happened to a client, in one line: `client_failed` when its training raised, `client_lost` otherwise."""
    return f"{'client_failed' if isinstance(error, ClientTrainingError) else 'client_lost'}: {first_line(error)}"


def _launch(queue: _Queue, timeout_s: float) -> Iterator[_Flight]:
    """Start as many waiting clients as the pool has idle actors."""
    while queue.waiting and (actor := queue.pool.take()) is not None:
        task, *given = queue.waiting.popleft()
        yield _Flight(task, queue.pool, actor, actor.train.remote(task, *given), time.monotonic() + timeout_s)


def _ready(flights: dict[Any, _Flight], starting: Sequence[Any]) -> Sequence[Any]:
    """Streams with a new item or an end: waits for one, or for an actor that has started, then takes all that are there."""
    soonest = min((flight.deadline for flight in flights.values()), default=math.inf) - time.monotonic()
    watched = [*flights, *starting]
    if not watched:
        return []
    ray.wait(watched, num_returns=1, timeout=max(0.0, min(_POLL_S, soonest)), fetch_local=False)
    return ray.wait(list(flights), num_returns=len(flights), timeout=0, fetch_local=False)[0] if flights else []


def _take_item(flight: _Flight) -> bool:
    """Take one item of a stream; False when it has ended."""
    try:
        flight.held.append(next(flight.stream))
    except StopIteration:
        return False
    return True


def _settle(flight: _Flight) -> Delivery:
    """What a stream that has ended delivers; its actor goes back to the pool, or is replaced where it died."""
    try:
        ray.get(flight.stream.completed())
    except RayError as error:  # the actor died; an error that the client raised is the stream's last item instead
        flight.pool.replace(flight.actor)
        return Delivery(flight.task, failure=client_failure(error), lost=True)
    flight.pool.give_back(flight.actor)
    update = flight.held.pop() if flight.held else None
    last_delta = flight.held.pop() if flight.held else None
    return Delivery(flight.task, update, last_delta, None if update is not None else "the client sent nothing")


def _give_up(flight: _Flight, timeout_s: float) -> Delivery:
    """A client past its deadline."""
    flight.pool.replace(flight.actor)
    return Delivery(flight.task, failure=f"late: no update within clients.timeout_s={timeout_s:g} s")
