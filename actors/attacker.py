"""AttackerActor: makes what colluding attackers send, once all of a round have trained. It holds no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import ray
import torch

from actors.attacking import moved
from actors.messages import AdapterLayout, LoRAUpdate, StepDelta, TrainTask
from actors.wire import decode_message, decode_tensors, encode_message
from defense.attacks.config import AttackConfig, AttackName
from defense.attacks.updates import collude
from probe.features import tensor_names


@dataclass(frozen=True, slots=True)
class _Member:
    """An attacker that has trained."""

    task: TrainTask
    update: LoRAUpdate


class Attacker:
    """The one behind all attackers of a round: they know each other's honest updates and no benign one.

    A round is `begin`, a `receive` per attacker, `messages` per attacker.
    """

    def __init__(self, layout: AdapterLayout, attack: AttackName, config: AttackConfig, num_steps: int) -> None:
        """`num_steps`: local steps of a round."""
        self._layout, self._attack, self._config, self._num_steps = layout, attack, config, num_steps
        self._start: Mapping[str, torch.Tensor] = {}
        self._num_clients = 0
        self._members: dict[str, _Member] = {}
        self._state: Mapping[str, torch.Tensor] | None = None

    def begin(self, adapter: bytes, num_clients: int) -> None:
        """Begin a round of so many clients, attackers included, at this global adapter; what was received is forgotten."""
        self._start, self._num_clients, self._members, self._state = decode_tensors(adapter), num_clients, {}, None

    def receive(self, task: TrainTask, update: bytes) -> None:
        """Take in the honest update of one attacker, an encoded LoRAUpdate."""
        self._members[task.client_id] = _Member(task, decode_message(update, LoRAUpdate))

    def messages(self, client_id: str) -> tuple[bytes, bytes]:
        """The last real StepDelta (empty where no probe reads it) and the LoRAUpdate of one attacker, encoded.

        All attackers of the round must have been received.
        """
        member, state = self._members[client_id], self._plotted()
        return self._last_delta(member, state), encode_message(replace(member.update, tensors=state))

    def _plotted(self) -> Mapping[str, torch.Tensor]:
        """The adapter that every attacker sends; a sum over them in order of id."""
        if self._state is None:
            members = [self._members[client_id] for client_id in sorted(self._members)]
            deltas = [{n: t.double() - self._start[n].double() for n, t in member.update.tensors.items()} for member in members]
            self._state = moved(self._start, collude(self._attack, deltas, self._num_clients, self._config))
        return self._state

    def _last_delta(self, member: _Member, state: Mapping[str, torch.Tensor]) -> bytes:
        task = member.task
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
                num_samples=member.update.num_samples // self._num_steps,  # every batch of a round is full
                tensors={name: state[name] - self._start[name] for name in names},
            )
        )


AttackerActor = ray.remote(Attacker)
