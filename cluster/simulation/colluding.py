"""Simulated attackers that collude: what they deliver is kept back until all of a round have, then made together.

The driver moves references only. Nothing happens here in a round without colluding attackers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError

from actors.errors import ClientTrainingError
from actors.messages import TrainTask
from cluster.errors import DeadlineError, LostError
from cluster.round.local_rounds import Delivery, first_line
from cluster.workers.deadlines import wait_for
from defense.attacks import ATTACKS


class Collusion:
    """One round's colluding attackers, from the driver's side."""

    def __init__(self, attacker: Any | None, tasks: Sequence[TrainTask], adapter: Any, timeout_s: float) -> None:
        """Begin a round.

        Args:
            attacker: The AttackerActor; None: nobody colludes.
            tasks: Those of all clients of the round.
            adapter: Reference to the global adapter's bytes.
            timeout_s: How long the attacker may take for one answer.
        """
        self._attacker, self._timeout_s = attacker, timeout_s
        self._training = {task.client_id for task in tasks if attacker is not None and _colludes(task)}
        self._kept: list[tuple[Delivery, Any]] = []
        if self._training:
            attacker.begin.remote(adapter, len(tasks))

    def take(self, delivery: Delivery) -> Iterator[tuple[Delivery, Any | None]]:
        """What becomes of a delivery: itself, nothing yet, or with the last attacker's those of all that were kept back.

        Yields:
            A delivery, and a reference to its last step delta where that has not been sent yet.

        Raises:
            LostError: the attackers' actor is gone.
        """
        if delivery.task.client_id not in self._training:
            yield delivery, None
            return
        self._training.remove(delivery.task.client_id)
        if delivery.failure is None:
            self._kept.append((delivery, self._attacker.receive.remote(delivery.task, delivery.update)))
        else:
            yield delivery, None
        if not self._training:
            yield from self._made()

    def _made(self) -> Iterator[tuple[Delivery, Any | None]]:
        """One whose training raised an error takes no part, and its own delivery tells why."""
        took_part = {delivery.task.client_id: self._received(ref) for delivery, ref in self._kept}
        for delivery, _ in sorted(self._kept, key=lambda kept: kept[0].task.client_id):
            if not took_part[delivery.task.client_id]:
                yield delivery, None
                continue
            call = self._attacker.messages.options(num_returns=2)
            last_delta, update = call.remote(delivery.task.client_id)
            if delivery.task.probe_feature is None:
                last_delta = None
            yield replace(delivery, update=update, last_delta=last_delta), last_delta

    def _received(self, ref: Any) -> bool:
        try:
            wait_for(ref, self._timeout_s, "taking in an attacker's update")
        except (RayActorError, DeadlineError) as error:
            raise LostError(f"the attackers' actor is gone: {first_line(error)}") from error
        except (ClientTrainingError, ObjectLostError):
            return False
        return True


def _colludes(task: TrainTask) -> bool:
    return task.attack is not None and ATTACKS[task.attack.name].colludes
