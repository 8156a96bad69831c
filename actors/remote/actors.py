"""The Ray side of clients outside the cluster: the gateway as an actor, and clients that hand their tasks to it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.messages import AdapterLayout, TrainTask
from actors.remote.gateway import Gateway

_PAUSE_S = 1.0
_RESTARTS = 1000
"""An actor that dies again and again without end would hide a fault."""


class RemoteClient:
    """A client whose data and training lie with a participant; the interface of `actors.client.Client` as rounds use it.

    Any of these actors serves any participant, one at a time: the task names the client.
    """

    def __init__(self, gateway: ActorHandle[Gateway], layout: AdapterLayout) -> None:
        self._gateway, self._layout = gateway, layout

    def layout(self) -> AdapterLayout:
        """Of the run, which the participant's own model must have."""
        return self._layout

    def train(self, task: TrainTask, adapter: bytes, difference: bytes | None = None) -> Iterator[bytes]:
        """What the participant sends, in its order: encoded messages, as yet unchecked. A gateway that was started again gets the
        work once more, and the participant sends what is missing.

        Raises:
            ClientTrainingError: the participant says that it failed.
        """
        given, num_taken, is_last = ray.put(adapter), 0, False
        while not is_last:
            try:
                work = ray.get(self._gateway.offer.remote(task, given, difference, num_taken))
                while not is_last:
                    item, is_last = ray.get(self._gateway.next_item.remote(task.client_id, work))
                    num_taken += 1
                    yield item
            except RayActorError:
                time.sleep(_PAUSE_S)


GatewayActor = ray.remote(max_restarts=_RESTARTS)(Gateway)
RemoteClientActor = ray.remote(num_cpus=0)(RemoteClient)
