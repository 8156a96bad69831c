"""SimulatedClientActor: a client of an experiment, which may train by a recipe of its own or attack."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import ray
import torch

from actors.client import Client
from actors.config import LocalOptimizerName, Recipe, TrainingConfig
from actors.data.encoding import Batch
from actors.local_training import LocalStep
from actors.messages import Branch, TrainTask
from actors.scaffold import Correction
from actors.simulation.behaviours import Attacker, AttackTask, behave
from defense.attacks import ATTACKS


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTask(TrainTask):
    """A task of a client that is not like the others."""

    recipe: Recipe = field(default_factory=Recipe)
    """How the client's training differs from the others'."""
    attack: AttackTask | None = None
    """How a simulated attacker behaves; None: honestly, though its data may be poisoned."""


class SimulatedClient(Client):
    """Trains plain tasks as `Client` does, and each `SimulatedTask` as it says.

    A recipe holds for the real branch: a shadow trains as the server says. Shadow branches are honest unless the attack lies in
    them or hides in both.
    """

    def _messages(
        self, task: TrainTask, start: Mapping[str, torch.Tensor], difference: Mapping[str, torch.Tensor] | None
    ) -> Iterator[bytes]:
        """An attacker that colludes keeps back its last real step delta, which is the item before the last."""
        messages, attack = super()._messages(task, start, difference), _attack_of(task)
        if attack is None or not ATTACKS[attack.name].colludes or task.probe_feature is None:
            yield from messages
            return
        held: deque[bytes] = deque()
        for message in messages:
            held.append(message)
            if len(held) > 2:
                yield held.popleft()
        yield held.pop()

    def _settings(self, task: TrainTask, branch: Branch = "real") -> TrainingConfig:
        settings = super()._settings(task, branch)
        return _recipe_of(task).applied_to(settings) if branch == "real" else settings

    def _optimizer(self, task: TrainTask, branch: Branch) -> LocalOptimizerName:
        return _recipe_of(task).optimizer if branch == "real" else super()._optimizer(task, branch)

    def _branch(
        self,
        task: TrainTask,
        branch: Branch,
        start: Mapping[str, torch.Tensor],
        batches: Sequence[Batch],
        learning_rate: float,
        correction: Correction | None = None,
        frozen: Iterable[str] = (),
    ) -> Iterator[LocalStep]:
        attack, rate = _attack_of(task), learning_rate
        if branch == "real":
            rate *= _recipe_of(task).learning_rate_factor
        if attack is None:
            return super()._branch(task, branch, start, batches, rate, correction, frozen)
        honest = super()._branch

        def train(start: Mapping[str, torch.Tensor], batches: Sequence[Batch], frozen: Iterable[str] = ()) -> Iterator[LocalStep]:
            return honest(task, branch, start, batches, rate, correction, frozen)

        attacker = Attacker(task, attack, branch, self._model, train, partial(self._batches, task, attack.cover))
        return behave(attacker, start, batches)


def _recipe_of(task: TrainTask) -> Recipe:
    return task.recipe if isinstance(task, SimulatedTask) else Recipe()


def _attack_of(task: TrainTask) -> AttackTask | None:
    return task.attack if isinstance(task, SimulatedTask) else None


SimulatedClientActor = ray.remote(SimulatedClient)
