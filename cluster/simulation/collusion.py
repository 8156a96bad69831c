"""Simulated attackers that collude: their updates are kept back until all of a round have trained, then made together.

`Collusion` receives what the colluding attackers of a round send, and hands on what they make of it. Other clients do not pass
through it. The driver moves references only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.errors import ClientTrainingError
from actors.messages import TrainTask
from actors.simulation.client import SimulatedTask
from actors.simulation.collusion import Colluders
from cluster.errors import DeadlineError, LostError
from cluster.round.local_rounds import Delivery, Receiver, StepDeltas
from cluster.workers.deadlines import first_line, wait_for
from cluster.workers.deaths import fate_of
from defense.attacks import ATTACKS

_Made = tuple[ray.ObjectRef[bytes], ray.ObjectRef[bytes]]
"""What `Colluders.messages` returns through Ray."""


class Collusion:
    """One round's colluding attackers, from the driver's side: a receiver in front of the round's own."""

    def __init__(
        self,
        colluders: ActorHandle[Colluders],
        tasks: Sequence[TrainTask],
        adapter: ray.ObjectRef[bytes],
        receiver: Receiver,
        timeout_s: float,
    ) -> None:
        """Begin a round.

        Args:
            tasks: Those of all clients of the round.
            adapter: Reference to the global adapter's bytes.
            receiver: Receives what the attackers send in the end.
            timeout_s: How long the colluders' actor may take for one answer.
        """
        self._colluders, self._receiver, self._timeout_s = colluders, receiver, timeout_s
        self._training = {task.client_id for task in tasks if colludes(task)}
        self._kept: list[tuple[Delivery, ray.ObjectRef]] = []
        colluders.begin.remote(adapter, len(tasks))

    def step_deltas(self, deltas: StepDeltas) -> None:
        """Step deltas are sent as they are; each attacker keeps back its last one itself."""
        self._receiver.step_deltas(deltas)

    def deliver(self, delivery: Delivery) -> None:
        """Keep a delivery back; with the last attacker's, deliver those of all.

        Raises:
            LostError: the colluders' actor is gone.
        """
        self._training.remove(delivery.task.client_id)
        if delivery.failure is None:
            self._kept.append((delivery, self._colluders.receive.remote(delivery.task, delivery.update)))
        else:
            self._receiver.deliver(delivery)
        if not self._training:
            self._deliver_all()

    def _deliver_all(self) -> None:
        """An attacker whose training raised an error takes no part, and its own delivery tells why.

        Where no update can be made in time, each attacker's own is delivered.
        """
        what = "taking in an attacker's update"
        took_part = {delivery.task.client_id: self._answered(ref, what) for delivery, ref in self._kept}
        if any(took_part.values()) and not self._answered(self._colluders.agree.remote(), "making the attackers' update"):
            took_part = dict.fromkeys(took_part, False)
        for delivery, _ in sorted(self._kept, key=lambda kept: kept[0].task.client_id):
            task = delivery.task
            if not took_part[task.client_id]:
                self._receiver.deliver(delivery)
                continue
            last_delta, update = cast(_Made, self._colluders.messages.remote(task.client_id))
            if task.probe_feature is not None:
                self._receiver.step_deltas([(task, last_delta)])
            tied = last_delta if task.probe_feature is not None else None
            self._receiver.deliver(replace(delivery, update=update, last_delta=tied))

    def _answered(self, ref: ray.ObjectRef, what: str) -> bool:
        """Whether the colluders' actor has done what it was asked; it may take as long as one answer may."""
        try:
            wait_for(ref, self._timeout_s, what)
        except ClientTrainingError:
            return False
        except (RayError, DeadlineError) as error:
            fate = fate_of(error)
            if fate == "raised":
                raise
            if fate == "gone":
                raise LostError(f"the colluders' actor is gone: {first_line(error)}") from error
            return False
        return True


def colludes(task: TrainTask) -> bool:
    """Whether the task is that of an attacker that colludes."""
    return isinstance(task, SimulatedTask) and task.attack is not None and ATTACKS[task.attack.name].colludes
