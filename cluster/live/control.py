"""The control actor of a run holds its status and the orders given to it; `LiveRun` is how any session reaches it."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import RayError

from cluster.errors import ClusterError, ConfigError, DeadlineError, EndedError
from cluster.workers.deadlines import first_line, wait_for
from cluster.workers.deaths import fate_of

if TYPE_CHECKING:  # the actor starts faster without what the status is made of
    from rich.table import Table

    from cluster.reporting.status import Order, Status

NAMESPACE = "safe-fedllm"
_PREFIX = "control/"
_RELEASE_S = 5.0
_TIMEOUT_S = 30.0
MOST_ORDERS = 100
"""That wait for the end of a round: what one session floods with may not hold up the others, or the run."""
_MOST_CHARACTERS = 1_000
_MOST_DIGITS = 18

T = TypeVar("T")
Actors = tuple[ActorHandle, ActorHandle | None]
"""Aggregator and probe; the latter is None at a level without one."""


class Control:
    """Stands between a run's driver, which publishes its status and takes orders, and the sessions that watch and order."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._actors: Sequence[ObjectRef[Actors]] = ()
        self._orders: list[Order] = []

    @ray.method
    def publish(self, status: Status) -> None:
        """The driver's newest status replaces the one before."""
        self._status = status

    @ray.method
    def status(self) -> Status:
        """The newest status, with the orders that wait for the end of the round."""
        return {**self._status, "orders": list(self._orders)}

    @ray.method
    def publish_actors(self, actors: Sequence[ObjectRef[Actors]]) -> None:
        """The driver's actors of this round; one that died has been replaced.

        Args:
            actors: One reference to them. It is passed on unread: a handle that is unpickled imports its actor's module, and
                with it torch.
        """
        self._actors = actors

    @ray.method
    def actors(self) -> Sequence[ObjectRef[Actors]]:
        """What `publish_actors` received; empty before the first round."""
        return self._actors

    @ray.method
    def order(self, verb: str, value: str | int | None) -> None:
        """Keep an order until the round under way ends: scale, pause, resume, stop or set; the driver judges it then.

        Raises:
            ClusterError: as many orders wait as are kept.
        """
        if len(self._orders) >= MOST_ORDERS:
            raise ClusterError(f"{MOST_ORDERS} orders wait for the end of the round; give this one again when they are taken")
        self._orders.append((str(_bounded(verb)), _bounded(value)))

    @ray.method
    def take_orders(self) -> Sequence[Order]:
        """Hand all orders to the driver, oldest first."""
        orders, self._orders = self._orders, []
        return orders


ControlActor = ray.remote(Control)


def start_control(status: Status) -> ActorProxy[Control]:
    """The control actor of the run with this status; it ends with the driver.

    Raises:
        ClusterError: a run of that name is live on this cluster.
    """
    name, until = status["name"], time.monotonic() + _RELEASE_S
    while True:
        try:
            return ControlActor.options(name=_PREFIX + name, namespace=NAMESPACE, num_cpus=0).remote(status)
        except ValueError as error:  # Ray releases the name of an actor that was killed a moment after the kill
            if time.monotonic() > until:
                raise ClusterError(f"a run named {name} is live on this cluster; set `name`, or use another directory") from error
            time.sleep(0.1)


class LiveRun:
    """`LiveRun("mine")`, or `Federation.attach("mine")`; needs a connection to the run's cluster.

    Orders take effect when the round under way has been committed.
    """

    def __init__(self, name: str | None = None) -> None:
        """Raises ClusterError when no such run is live, or several are and none is named."""
        actors: Sequence[Mapping[str, str]] = ray.util.list_named_actors(all_namespaces=True)  # pyright: ignore[reportAssignmentType]
        ours = [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE]
        names = sorted(found.removeprefix(_PREFIX) for found in ours if found.startswith(_PREFIX))
        if not names:
            raise ClusterError("no run is live on this cluster; start one with `safe-fedllm run` or `safe-fedllm submit`")
        if name is None and len(names) > 1:
            raise ClusterError(f"several runs are live, name one: --name {' | '.join(names)}")
        self.name = name or names[0]
        if self.name not in names:
            raise ClusterError(f"no live run is named {name}: --name {' | '.join(names)}")
        self._actor: ActorProxy[Control] = ray.get_actor(_PREFIX + self.name, namespace=NAMESPACE)

    def status(self) -> Status:
        """Round, clients by state, last weights, probe version, rates; plain data."""
        return self._answer(self._control.status.remote())

    def __repr__(self) -> str:
        return f"LiveRun({self.name!r})"

    def __rich__(self) -> Table:
        """The status as it is now, as a table; a notebook shows it too."""
        from cluster.reporting.status import status_table

        return status_table(self.status())

    def _repr_mimebundle_(self, include: Sequence[str] = (), exclude: Sequence[str] = (), **_: object) -> dict[str, str]:
        return self.__rich__()._repr_mimebundle_(include, exclude)

    def scale(self, clients: int) -> None:
        """Let this many clients take part from the next round on."""
        if clients < 1:
            raise ConfigError(f"scale {clients}: a federation needs at least one client")
        self._order("scale", clients)

    def pause(self) -> None:
        """Start no further round until `resume`."""
        self._order("pause")

    def resume(self) -> None:
        """Go on after `pause`."""
        self._order("resume")

    def stop(self) -> None:
        """End the run after the round under way; its results are written, and it can be resumed later."""
        self._order("stop")

    def set(self, change: str) -> None:
        """Change a parameter of the defense, such as defense.skip_below=0.3."""
        key, equals, _ = change.partition("=")
        if not equals or not key.startswith("defense."):
            raise ConfigError(f"set {change}: only defense.KEY=VALUE can change while a run is live")
        self._order("set", change)

    def wait(self, state: str, timeout_s: float) -> Status:
        """Wait for a state (running, paused) and return the status; raises DeadlineError."""
        until = time.monotonic() + timeout_s
        while (status := self.status())["state"] != state:
            if time.monotonic() > until:
                raise DeadlineError(f"run {self.name} was not {state} within {timeout_s:g} s; it is {status['state']}")
            time.sleep(0.1)
        return status

    @property
    def aggregator(self) -> ActorHandle:
        """Handle of the run's AggregatorActor."""
        return self._actors()[0]

    @property
    def probe(self) -> ActorHandle | None:
        """Handle of the run's ProbeActor; None at a level without one."""
        return self._actors()[1]

    @property
    def _control(self) -> ActorProxy[Control]:
        if not ray.is_initialized():
            raise ClusterError("not connected to Ray; call ray.init(address=...) with the run's cluster first")
        return self._actor

    def _order(self, verb: str, value: str | int | None = None) -> None:
        self._answer(self._control.order.remote(verb, value))

    def _actors(self) -> Actors:
        references = self._answer(self._control.actors.remote())
        if not references:
            raise ClusterError(f"run {self.name} is still starting; its actors can be had from its first round on")
        return self._answer(references[0])

    def _answer(self, reference: ObjectRef[T]) -> T:
        try:
            return wait_for(reference, _TIMEOUT_S, f"asking run {self.name}")
        except RayError as error:
            if fate_of(error) == "raised":
                raise ClusterError(f"run {self.name}: {first_line(error)}") from error
            raise EndedError(f"run {self.name} has ended") from error


def _bounded(value: object) -> str | int | None:
    """A word of an order as it is where it is one, else a short picture of it, which no verb takes."""
    if value is None or (isinstance(value, str) and len(value) <= _MOST_CHARACTERS):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_MOST_DIGITS:
        return value
    try:
        return reprlib.repr(value)
    except Exception:  # whatever its `repr` does: a number of more digits than Python writes out raises, for example
        return f"<{type(value).__name__}>"
