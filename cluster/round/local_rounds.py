"""Training many clients on pools of actors: launch, hand on what they stream, give up on clients past their deadline.

The driver moves references only. The last item of a client's stream is its update, the item before it the last step delta of
the real branch; an item is known to be a step delta once a newer one has come.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.client import Client
from actors.messages import TrainTask
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import fate_of
from cluster.workers.pool import ClientPool

_POLL_S = 1.0

StepDeltas = Sequence[tuple[TrainTask, ObjectRef[bytes]]]
"""Tasks with references to encoded step deltas of theirs."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A client whose stream has ended; `failure` says why there is no update."""

    task: TrainTask
    update: ObjectRef[bytes] | None = None
    """Reference to the encoded LoRAUpdate, or to the client's own error; None only with a failure."""
    last_delta: ObjectRef[bytes] | None = None
    failure: str | None = None
    lost: bool = False
    """Whether the failure is that of its actor or node, not of the client."""


class Receiver(Protocol):
    """Takes what clients send while they train."""

    def step_deltas(self, deltas: StepDeltas) -> None:
        """Step deltas that came together."""

    def deliver(self, delivery: Delivery) -> None:
        """A client has ended; called once for each."""


@dataclass(frozen=True, slots=True)
class Job:
    """One client's training."""

    task: TrainTask
    adapter: ObjectRef[bytes]
    """The adapter that it starts from."""
    receiver: Receiver
    difference: ObjectRef[bytes] | None = None
    """SCAFFOLD's c - c_i; None without."""


@dataclass(slots=True)
class _Queue:
    """Clients that wait for an actor of a pool."""

    pool: ClientPool
    waiting: deque[Job]


@dataclass(slots=True)
class _Flight:
    """A client that is training now."""

    job: Job
    pool: ClientPool
    actor: ActorHandle[Client]
    stream: ray.ObjectRefGenerator
    deadline: float
    held: deque[ObjectRef[bytes]] = field(default_factory=lambda: deque(maxlen=2))
    """The newest items: the last one may be the update, the one before it the last real step delta."""


def train_all(jobs: Iterable[tuple[ClientPool, Sequence[Job]]], *, timeout_s: float, start_timeout_s: float) -> None:
    """Run every job on its pool, in this order; returns when each has been delivered to its receiver.

    An actor is back in its pool, or replaced, before the delivery of its client. An actor cannot be interrupted: one whose
    client is late is replaced, so is one that died, and so is one still training when a receiver raises, so that what it goes
    on with takes no time from the next client.

    Args:
        jobs: Pools, each with what it trains.
        timeout_s: How long one client may train.
        start_timeout_s: How long clients wait for an actor to start while none trains.
    """
    queues = [_Queue(pool, deque(own)) for pool, own in jobs]
    flights: dict[ray.ObjectRefGenerator, _Flight] = {}
    idle_since = time.monotonic()
    try:
        while flights or any(queue.waiting for queue in queues):
            for flight in (flight for queue in queues for flight in _launch(queue, timeout_s)):
                flights[flight.stream] = flight
            ended = _take_ready(flights, [ref for queue in queues if queue.waiting for ref in queue.pool.starting])
            for stream in [s for s, flight in flights.items() if time.monotonic() > flight.deadline]:
                ended.append(_give_up(flights.pop(stream), timeout_s))
            for receiver, delivery in ended:
                receiver.deliver(delivery)
            if flights or ended:
                idle_since = time.monotonic()
            elif time.monotonic() > idle_since + start_timeout_s:
                _abandon(queues, start_timeout_s)
                return
    finally:
        for flight in flights.values():
            flight.pool.replace(flight.actor)


def shortfall(delivery: Delivery, num_deltas: int, num_steps: int) -> str | None:
    """Why a client that should have sent a delta of every step has not; None when it has."""
    if delivery.update is None or num_deltas == num_steps:
        return delivery.failure
    try:
        ray.get(delivery.update)
    except RayError as error:  # Ray raises a client's own error as a RayTaskError of both classes
        return client_failure(error)
    return f"{num_deltas} step deltas of {num_steps} steps"


def client_failure(error: BaseException) -> str:
    """What happened to a client, in one line: `client_failed` when its training raised, `client_lost` otherwise."""
    return f"{'client_failed' if fate_of(error) == 'raised' else 'client_lost'}: {first_line(error)}"


def _launch(queue: _Queue, timeout_s: float) -> Iterator[_Flight]:
    """Start as many waiting clients as the pool has idle actors."""
    while queue.waiting and (actor := queue.pool.take()) is not None:
        job = queue.waiting.popleft()
        stream = actor.train.remote(job.task, job.adapter, job.difference)
        yield _Flight(job, queue.pool, actor, stream, time.monotonic() + timeout_s)


def _take_ready(flights: dict[ray.ObjectRefGenerator, _Flight], starting: Sequence[ObjectRef]) -> list[tuple[Receiver, Delivery]]:
    """Take one item of every stream that has one; hand on step deltas and return what has ended."""
    ended: list[tuple[Receiver, Delivery]] = []
    deltas: dict[int, tuple[Receiver, list[tuple[TrainTask, ObjectRef[bytes]]]]] = {}
    for stream in _ready(flights, starting):
        flight = flights[stream]
        job = flight.job
        if not _take_item(flight):
            ended.append((job.receiver, _settle(flights.pop(stream))))
        elif len(flight.held) > 1:
            deltas.setdefault(id(job.receiver), (job.receiver, []))[1].append((job.task, flight.held[0]))
    for receiver, own in deltas.values():
        receiver.step_deltas(own)
    return ended


def _ready(flights: dict[ray.ObjectRefGenerator, _Flight], starting: Sequence[ObjectRef]) -> Sequence[ray.ObjectRefGenerator]:
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
    task = flight.job.task
    try:
        ray.get(flight.stream.completed())
    except RayError as error:  # the actor died; an error that the client raised is the stream's last item instead
        flight.pool.replace(flight.actor)
        return Delivery(task, failure=client_failure(error), lost=True)
    flight.pool.give_back(flight.actor)
    update = flight.held.pop() if flight.held else None
    last_delta = flight.held.pop() if flight.held else None
    return Delivery(task, update, last_delta, None if update is not None else "the client sent nothing")


def _give_up(flight: _Flight, timeout_s: float) -> tuple[Receiver, Delivery]:
    """A client past its deadline."""
    flight.pool.replace(flight.actor)
    delivery = Delivery(flight.job.task, failure=f"late: no update within clients.timeout_s={timeout_s:g} s")
    return flight.job.receiver, delivery


def _abandon(queues: Sequence[_Queue], start_timeout_s: float) -> None:
    """Clients for which no actor has started; one that hangs as it starts is ended, and the next round has another."""
    why = f"pending: no client actor for cluster.start_timeout_s={start_timeout_s:g} s"
    for queue in queues:
        queue.pool.start_again()
    for job in (job for queue in queues for job in queue.waiting):
        job.receiver.deliver(Delivery(job.task, failure=why, lost=True))
