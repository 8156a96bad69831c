"""ColludersActor: makes what colluding attackers send, once all of a round have trained.

It loads a model only for attacks that optimise what they send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import ray
import torch

from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.messages import AdapterLayout, LoRAUpdate, StepDelta, TrainTask
from actors.model.adapted import AdaptedModel, choose_device
from actors.seeding import torch_seed
from actors.simulation.behaviours import moved
from actors.simulation.joint import joint
from actors.simulation.knowledge import gathered
from actors.wire import decode_message, decode_tensors, encode_message
from defense.attacks.collusion import Occasion, collude
from defense.attacks.config import AttackConfig, AttackName
from defense.tensors import Tensors
from probe.features import tensor_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The model that attackers may train together."""

    model: ModelConfig
    lora: LoraConfig


class Colluders:
    """The one behind all attackers of a round: they know each other's honest updates and no benign one.

    A round is `begin`, a `receive` per attacker, `agree`, `messages` per attacker.
    """

    def __init__(
        self, layout: AdapterLayout, attack: AttackName, config: AttackConfig, training: TrainingConfig, base: Base | None = None
    ) -> None:
        """`base`: None where the attack needs no model."""
        self._layout, self._config, self._training, self._base = layout, config, training, base
        self._attack: AttackName = attack
        self._start: Mapping[str, torch.Tensor] = {}
        self._num_clients = 0
        self._members: dict[str, tuple[TrainTask, LoRAUpdate]] = {}
        self._states: Mapping[str, Mapping[str, torch.Tensor]] | None = None

    def begin(self, adapter: bytes, num_clients: int) -> None:
        """Begin a round of so many clients, attackers included, at this global adapter; what was received is forgotten."""
        self._start, self._num_clients, self._members, self._states = decode_tensors(adapter), num_clients, {}, None

    def receive(self, task: TrainTask, update: bytes) -> None:
        """Take in the honest update of one attacker, an encoded LoRAUpdate."""
        self._members[task.client_id] = task, decode_message(update, LoRAUpdate)

    def agree(self) -> None:
        """Make what the attackers of the round send, all of which have been received; `messages` does if nobody has asked."""
        self._agreed()

    @ray.method(num_returns=2)
    def messages(self, client_id: str) -> tuple[bytes, bytes]:
        """The last real StepDelta (empty where no probe reads it) and the LoRAUpdate of one attacker, encoded.

        All attackers of the round must have been received.
        """
        (task, update), state = self._members[client_id], self._agreed()[client_id]
        return self._last_delta(task, update, state), encode_message(replace(update, tensors=state))

    def _agreed(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """Attacker -> the adapter that it sends; sums over attackers in order of id."""
        if self._states is None:
            names = sorted(self._members)
            tasks, updates = zip(*(self._members[client_id] for client_id in names), strict=True)
            deltas = [{n: t.double() - self._start[n].double() for n, t in update.tensors.items()} for update in updates]
            sent = self._made(tasks, deltas)
            self._states = {name: moved(self._start, delta) for name, delta in zip(names, sent, strict=True)}
        return self._states

    def _made(self, tasks: Sequence[TrainTask], deltas: Sequence[Tensors]) -> Sequence[Tensors]:
        """What each attacker sends."""
        if self._attack == "joint":
            known = gathered(self._model, self._training, self._start, tasks, deltas, self._num_clients, self._config.joint)
            return joint(known, self._config.joint, torch_seed(tasks[0].seed, "joint", tasks[0].round_index))
        now = Occasion(num_clients=self._num_clients, round_index=tasks[0].round_index)
        return [collude(self._attack, deltas, now, self._config)] * len(deltas)

    @cached_property
    def _model(self) -> AdaptedModel:
        if self._base is None:
            raise RuntimeError(f"clients.attack={self._attack} trains a model, and none was given; pass base")
        torch.set_num_threads(self._training.num_threads)
        return AdaptedModel(self._base.model, self._base.lora, choose_device())

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
                step=self._training.steps,
                num_samples=update.num_samples // self._training.steps,  # every batch of a round is full
                tensors={name: state[name] - self._start[name] for name in names},
            )
        )


ColludersActor = ray.remote(Colluders)
