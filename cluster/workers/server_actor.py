"""One actor of the server, which is started again when it is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import ray
from ray.actor import ActorClass, ActorHandle

T = TypeVar("T")


def launch(actors: ActorClass[T], options: Mapping[str, Any], *arguments: object, **named: object) -> ActorHandle[T]:
    """Start an actor with Ray's options; returns at once."""
    return cast(ActorHandle[T], actors.options(**options).remote(*arguments, **named))  # Ray types it as the class, too


class ServerActor(Generic[T]):
    """Holds the handle of an actor that one run has once."""

    def __init__(self, name: str, start: Callable[[], ActorHandle[T]]) -> None:
        """Start it; `start` returns at once."""
        self.name, self._start = name, start
        self.handle = start()

    def replace(self) -> None:
        """End the actor and start another in its place."""
        ray.kill(self.handle)
        self.handle = self._start()

    def close(self) -> None:
        """End the actor."""
        ray.kill(self.handle)
