"""Live control: a named actor per run that holds its status and the orders given to it, reachable from any session."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from cluster.errors import ClusterError

NAMESPACE = "safe-fedllm"
_PREFIX = "control/"
_RELEASE_S = 5.0


class Control:
    """Between a run's driver, which publishes and takes orders, and the sessions that watch and give them."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {"state": "starting"}
        self._handles: list[Any] = []
        self._orders: list[tuple[str, Any]] = []

    def publish(self, status: Mapping[str, Any]) -> None:
        """The driver's newest status replaces the one before."""
        self._status = dict(status)

    def status(self) -> dict[str, Any]:
        """The newest status, plain data; `orders` are those that wait for the end of the round."""
        return {**self._status, "orders": [list(order) for order in self._orders]}

    def introduce(self, handles: Sequence[Any]) -> None:
        """The driver hands out the run's actors; they change when one is replaced.

        Args:
            handles: One reference to a mapping of name to handle. It is passed on unread: a handle that is unpickled
                imports its actor's module, and with it torch.
        """
        self._handles = list(handles)

    def handles(self) -> Sequence[Any]:
        """What `introduce` was given: `aggregator`, and `probe` at a level with one."""
        return self._handles

    def order(self, verb: str, value: Any = None) -> None:
        """An order for the next round boundary: scale, pause, resume, stop or set."""
        self._orders.append((verb, value))

    def take_orders(self) -> list[tuple[str, Any]]:
        """The driver takes all orders, oldest first."""
        orders, self._orders = self._orders, []
        return orders


ControlActor = ray.remote(Control)


def start_control(name: str) -> Any:
    """A run's control actor; it ends with the driver.

    Raises:
        ClusterError: a run of that name is live on this cluster.
    """
    until = time.monotonic() + _RELEASE_S
    while True:
        try:
            return ControlActor.options(name=_PREFIX + name, namespace=NAMESPACE, num_cpus=0).remote()
        except ValueError as error:  # Ray releases the name of an actor that was killed a moment after the kill
            if time.monotonic() > until:
                raise ClusterError(f"a run named {name} is live on this cluster; set `name`, or use another directory") from error
            time.sleep(0.1)


def live_runs() -> Sequence[str]:
    """Names of the runs that are live on the connected cluster."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        item["name"].removeprefix(_PREFIX)
        for item in named
        if item["namespace"] == NAMESPACE and item["name"].startswith(_PREFIX)
    )


def find_control(name: str | None) -> tuple[str, Any]:
    """Name and control actor of a live run; without a name that of the only one.

    Raises:
        ClusterError: no such run, or several and none is named.
    """
    names = live_runs()
    if name is None and len(names) == 1:
        name = names[0]
    if not names:
        raise ClusterError("no run is live on this cluster; start one with `safe-fedllm run` or `safe-fedllm submit`")
    if name not in names:
        what = "several runs are live, name one" if name is None else f"no live run is named {name}"
        raise ClusterError(f"{what}: --name {' | '.join(names)}")
    return name, ray.get_actor(_PREFIX + name, namespace=NAMESPACE)
