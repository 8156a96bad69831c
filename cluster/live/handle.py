"""A handle on a run that goes on elsewhere: what `safe-fedllm status | scale | pause | resume | stop | set` do."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from cluster.errors import ClusterError, ConfigError, DeadlineError
from cluster.live.control import find_control
from cluster.workers.deadlines import wait_for

_TIMEOUT_S = 30.0


class LiveRun:
    """`LiveRun("mine")`, or `Federation.attach("mine")`; needs a connection to the run's cluster.

    Orders take effect when the round under way has been committed.
    """

    def __init__(self, name: str | None = None) -> None:
        """Raises ClusterError when no such run is live, or several are and none is named."""
        self.name, self._control = find_control(name)

    def status(self) -> dict[str, Any]:
        """Round, clients by state, last weights, probe version, rates; plain data."""
        return self._ask("status")

    def scale(self, clients: int) -> None:
        """Let so many clients take part from the next round on."""
        if clients < 1:
            raise ConfigError(f"scale {clients}: a federation needs at least one client")
        self._ask("order", "scale", clients)

    def pause(self) -> None:
        """Start no further round until `resume`."""
        self._ask("order", "pause")

    def resume(self) -> None:
        self._ask("order", "resume")

    def stop(self) -> None:
        """End the run after the round under way; its results are written, and it can be resumed later."""
        self._ask("order", "stop")

    def set(self, change: str) -> None:
        """Change a parameter of the defense, such as defense.skip_below=0.3."""
        key, equals, _ = change.partition("=")
        if not equals or not key.startswith("defense."):
            raise ConfigError(f"set {change}: only defense.KEY=VALUE can change while a run is live")
        self._ask("order", "set", change)

    def wait(self, state: str, timeout_s: float) -> dict[str, Any]:
        """Wait for a state (running, paused) and return the status; raises DeadlineError."""
        until = time.monotonic() + timeout_s
        while (status := self.status())["state"] != state:
            if time.monotonic() > until:
                raise DeadlineError(f"run {self.name} was not {state} within {timeout_s:g} s; it is {status['state']}")
            time.sleep(0.1)
        return status

    @property
    def aggregator(self) -> Any:
        """Handle of the run's AggregatorActor."""
        return self._handles()["aggregator"]

    @property
    def probe(self) -> Any | None:
        """Handle of the run's ProbeActor; None at a level without one."""
        return self._handles().get("probe")

    def _handles(self) -> dict[str, Any]:
        references = self._ask("handles")
        if not references:
            raise ClusterError(f"run {self.name} is still starting; its actors can be had from its first round on")
        try:
            return wait_for(references[0], _TIMEOUT_S, f"asking run {self.name}")
        except ObjectLostError as error:
            raise ClusterError(f"run {self.name} has ended") from error

    def _ask(self, method: str, *arguments: Any) -> Any:
        if not ray.is_initialized():
            raise ClusterError("not connected to Ray; call ray.init(address=...) with the run's cluster first")
        try:
            return wait_for(getattr(self._control, method).remote(*arguments), _TIMEOUT_S, f"asking run {self.name}")
        except RayActorError as error:
            raise ClusterError(f"run {self.name} has ended") from error
