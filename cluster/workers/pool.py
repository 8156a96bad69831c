"""A pool of client actors: logical clients share them, and one that hangs, died or is given up is replaced."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.client import Client
from actors.errors import SafeFedError
from actors.messages import AdapterLayout
from cluster.errors import ClusterError, DeadlineError
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import fate_of

_LOG = logging.getLogger(__name__)
_FAILED_STARTS = 5


@dataclass(frozen=True, slots=True)
class Starting:
    """An actor on its way."""

    actor: ActorHandle
    """Of a `Client`, or of a subclass."""
    ready: ObjectRef[AdapterLayout]
    """Reference that is there once the actor can train; its value goes to `accept`."""


class ClientPool:
    """Starting, idle and busy client actors. Which actor a client gets changes no result.

    An actor takes clients only once it has started, so one that waits for room on the cluster holds up nobody.
    """

    def __init__(
        self, start: Callable[[], Starting], num_actors: int, accept: Callable[[AdapterLayout], None] = lambda _: None
    ) -> None:
        """Start the actors.

        Args:
            start: Starts one actor and returns at once.
            accept: Receives the value of each actor's `ready`; raises SafeFedError when the actor must not be used.
        """
        self._start, self._accept = start, accept
        self._starting = [start() for _ in range(num_actors)]
        self._idle: list[ActorHandle[Client]] = []
        self._busy: list[ActorHandle[Client]] = []
        self._failed_starts = 0

    @property
    def actors(self) -> Sequence[ActorHandle[Client]]:
        """Every actor, those on their way too."""
        return [*self._idle, *self._busy, *(item.actor for item in self._starting)]

    @property
    def starting(self) -> list[ObjectRef]:
        """References that become ready when an actor has started."""
        return [item.ready for item in self._starting]

    def wait_for_one(self, timeout_s: float) -> ActorHandle[Client]:
        """The first actor that has started; it stays idle.

        Raises:
            DeadlineError: none has, in this time. SafeFedError, ClusterError: as `take`.
        """
        until = time.monotonic() + timeout_s
        while not self._idle:
            ray.wait(self.starting, num_returns=1, timeout=max(0.0, until - time.monotonic()))
            self._poll()
            if not self._idle and time.monotonic() > until:
                raise DeadlineError(f"no client actor started within {timeout_s:g} s")
        return self._idle[0]

    def take(self) -> ActorHandle[Client] | None:
        """An idle actor, or None when none is ready.

        Raises:
            SafeFedError: no actor is left that could be used. ClusterError: actors die again and again as they start.
        """
        self._poll()
        if not self._idle:
            return None
        self._busy.append(self._idle.pop(0))
        return self._busy[-1]

    def give_back(self, actor: ActorHandle[Client]) -> None:
        self._busy.remove(actor)
        self._idle.append(actor)

    def replace(self, actor: ActorHandle[Client]) -> None:
        """End an actor that died, does not answer, or trains what nobody waits for, and start another in its place."""
        (self._busy if actor in self._busy else self._idle).remove(actor)
        ray.kill(actor)
        self._starting.append(self._start())

    def start_again(self) -> None:
        """End the actors on their way and start as many others: one that hangs as it starts never gets ready."""
        for item in self._starting:
            ray.kill(item.actor)
        self._starting = [self._start() for _ in self._starting]

    def resize(self, num_actors: int) -> None:
        """Start more, or end some: first those on their way, then idle ones. Busy ones stay."""
        for _ in range(num_actors - len(self.actors)):
            self._starting.append(self._start())
        while len(self.actors) > num_actors and (self._starting or self._idle):
            ray.kill(self._starting.pop().actor if self._starting else self._idle.pop())

    def close(self) -> None:
        """End all actors."""
        for actor in self.actors:
            ray.kill(actor)
        self._starting, self._idle, self._busy = [], [], []

    def _poll(self) -> None:
        """Take in the actors that have started."""
        if not self._starting:
            return
        ready = set(ray.wait(self.starting, num_returns=len(self._starting), timeout=0)[0])
        started = [item for item in self._starting if item.ready in ready]
        self._starting = [item for item in self._starting if item.ready not in ready]
        for item in started:
            self._take_in(item)

    def _take_in(self, item: Starting) -> None:
        try:
            self._accept(ray.get(item.ready))
        except (RayError, SafeFedError) as error:
            ray.kill(item.actor)
            if isinstance(error, RayError) and fate_of(error) != "raised":
                self._replace_dead(error)
            elif not self.actors:
                raise
            else:
                _LOG.warning("a client actor cannot be used and is left out: %s", str(error).strip().splitlines()[-1])
        else:
            self._failed_starts = 0
            self._idle.append(item.actor)

    def _replace_dead(self, error: RayError) -> None:
        """Start another in place of one that died as it started."""
        self._failed_starts += 1
        if self._failed_starts == _FAILED_STARTS:
            raise ClusterError(f"{_FAILED_STARTS} client actors in a row died as they started: {error}") from error
        _LOG.warning("a client actor died as it started; another one is started: %s", first_line(error))
        self._starting.append(self._start())
