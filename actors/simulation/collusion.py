"""ColludersActor: makes what colluding attackers send, once all of a round have trained. It holds no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ray
import torch

from actors.messages import AdapterLayout, LoRAUpdate, StepDelta, TrainTask
from actors.simulation.behaviours import moved
from actors.wire import decode_message, decode_tensors, encode_message
from defense.attacks.collusion import Occasion, collude
from defense.attacks.config import AttackConfig, AttackName
from probe.features import tensor_names


class Colluders:
    """The one behind all attackers of a round: they know each other's honest updates and no benign one.

    A round is `begin`, a `receive` per attacker, `messages` per attacker.
    """

    def __init__(self, layout: AdapterLayout, attack: AttackName, config: AttackConfig, num_steps: int) -> None:
        """`num_steps`: local steps of a round."""
        self._layout, self._config, self._num_steps = layout, config, num_steps
        self._attack: AttackName = attack
        self._start: Mapping[str, torch.Tensor] = {}
        self._num_clients = 0
        self._members: dict[str, tuple[TrainTask, LoRAUpdate]] = {}
        self._state: Mapping[str, torch.Tensor] | None = None

    def begin(self, adapter: bytes, num_clients: int) -> None:
        """Begin a round of so many clients, attackers included, at this global adapter; what was received is forgotten."""
        self._start, self._num_clients, self._members, self._state = decode_tensors(adapter), num_clients, {}, None

    def receive(self, task: TrainTask, update: bytes) -> None:
        """Take in the honest update of one attacker, an encoded LoRAUpdate."""
        self._members[task.client_id] = task, decode_message(update, LoRAUpdate)

    @ray.method(num_returns=2)
    def messages(self, client_id: str) -> tuple[bytes, bytes]:
        """The last real StepDelta (empty where no probe reads it) and the LoRAUpdate of one attacker, encoded.

        All attackers of the round must have been received.
        """
        (task, update), state = self._members[client_id], self._plotted()
        return self._last_delta(task, update, state), encode_message(replace(update, tensors=state))

    def _plotted(self) -> Mapping[str, torch.Tensor]:
        """The adapter that every attacker sends; a sum over them in order of id."""
        if self._state is None:
            updates = [self._members[client_id][1] for client_id in sorted(self._members)]
            deltas = [{n: t.double() - self._start[n].double() for n, t in update.tensors.items()} for update in updates]
            now = Occasion(num_clients=self._num_clients, round_index=updates[0].round_index)
            self._state = moved(self._start, collude(self._attack, deltas, now, self._config))
        return self._state

    def _last_delta(self, task: TrainTask, update: LoRAUpdate, state: Mapping[str, torch.Tensor]) -> bytes:
        if task.probe_feature is None:
            return b""
        names = tensor_names(task.probe_feature, self._layout.layers)
        return encode_message(
            StepDelta(
                client_id=task.client_id,
                round_index=task.round_index,
                base_version=task.base_version,
                branch="real",
                step=self._num_steps,
                num_samples=update.num_samples // self._num_steps,  # every batch of a round is full
                tensors={name: state[name] - self._start[name] for name in names},
            )
        )


ColludersActor = ray.remote(Colluders)
