"""A pool of client actors: logical clients share them, and one that hangs or died is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray


class ClientPool:
    """Idle and busy client actors. Which actor a client gets changes no result."""

    def __init__(self, start: Callable[[], Any], num_actors: int) -> None:
        """`start` starts one actor and returns its handle at once."""
        self._start = start
        self._idle = [start() for _ in range(num_actors)]
        self._busy: list[Any] = []

    @property
    def actors(self) -> Sequence[Any]:
        return [*self._idle, *self._busy]

    def take(self) -> Any | None:
        """An idle actor, or None when all are busy."""
        if not self._idle:
            return None
        self._busy.append(self._idle.pop(0))
        return self._busy[-1]

    def give_back(self, actor: Any) -> None:
        self._busy.remove(actor)
        self._idle.append(actor)

    def replace(self, actor: Any) -> None:
        """End an actor that does not answer and start another in its place."""
        self._busy.remove(actor)
        ray.kill(actor)
        self._idle.append(self._start())

    def close(self) -> None:
        """End all actors."""
        for actor in self.actors:
            ray.kill(actor)
        self._idle, self._busy = [], []
