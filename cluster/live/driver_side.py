"""The driver's side of its control actor: it publishes without waiting and takes orders within seconds, whatever the actor does.

A control actor that died or hangs is ended and another started in its place, so that it neither ends the run nor blocks it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorProxy

from cluster.errors import ClusterError, LostError
from cluster.live.control import Control, start_control
from cluster.reporting.status import Order, Status
from cluster.workers.deaths import answer_of

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 20.0
"""For one answer; an actor that has just been started in place of another needs some seconds."""


class DriverSide:
    """Owns the control actor of one run."""

    def __init__(self, status: Status) -> None:
        """Start the control actor, by which other sessions find the run.

        Raises:
            ClusterError: another run of that name is live.
        """
        self._status = status
        self._control: ActorProxy[Control] | None = start_control(status)

    def publish(self, status: Status) -> None:
        """Publish a status without waiting."""
        self._status = status
        if self._control is not None:
            self._control.publish.remote(status)

    def publish_actors(self, actors: Any) -> None:
        """Publish the handles of aggregator and probe without waiting."""
        if self._control is not None:
            self._control.publish_actors.remote([ray.put(actors)])

    def take_orders(self) -> tuple[Sequence[Order], str | None]:
        """The orders that wait, oldest first; and why those that waited are lost, or None."""
        if self._control is None:
            self._start_again()
        if self._control is None:
            return (), None
        try:
            return answer_of(self._control.take_orders.remote(), _TIMEOUT_S, "taking orders"), None
        except LostError as error:
            self.close()
            self._start_again()
            return (), f"the control actor was started again, give orders that waited once more: {error}"

    def close(self) -> None:
        """End the control actor: no session finds the run any more."""
        if self._control is not None:
            ray.kill(self._control)  # pyright: ignore[reportArgumentType] - Ray's own type of a handle does not fit `kill`
            self._control = None

    def _start_again(self) -> None:
        """Start the control actor with the newest status; where its name is still taken, the next round tries again."""
        try:
            self._control = start_control(self._status)
        except ClusterError as error:
            _LOG.warning("the run cannot be reached by other sessions for now: %s", error)
