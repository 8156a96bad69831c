"""A simulated attacker's round: an honest client's training with one thing changed (`defense/attacks/__init__.py`).

`Client` sends what lies in the live adapter after each step. So an attack is a way to train a branch: it decides on which
data, and what lies in the live adapter at each step. Where an update is changed after training, the changed one lies there
at the last step, so that the last real StepDelta is that of the update which is submitted.

Shadow branches are honest unless the attack lies in them or hides in both. Nothing here is known to the defense.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from actors.data.prompting import Batch
from actors.evading import Evader
from actors.local_training import LocalStep, mean_response_loss
from actors.messages import AttackTask, Branch, TrainTask
from actors.model import AdaptedModel
from actors.seeding import stream
from defense.attacks import ATTACKS
from defense.attacks.config import AttackName
from defense.attacks.noise import disguise
from defense.attacks.ratchet import longest
from defense.attacks.scaling import scaled
from defense.attacks.updates import CHANGES, change

State = Mapping[str, torch.Tensor]


class TrainBranch(Protocol):
    """How a client trains a branch; its result is the live adapter after each step."""

    def __call__(
        self,
        task: TrainTask,
        branch: Branch,
        start: State,
        batches: Sequence[Batch],
        learning_rate: float,
        frozen: Iterable[str] = (),
    ) -> Iterator[LocalStep]: ...


class AttackRound:
    """One attacker in one round."""

    def __init__(
        self, task: TrainTask, model: AdaptedModel, train: TrainBranch, read: Callable[[TrainTask], list[Batch]]
    ) -> None:
        """`train` and `read` are what an honest client does: train a branch, and draw a task's batches."""
        self.task, self.attack, self.model = task, _attack_of(task), model
        self._train, self._read = train, read

    def train_branch(
        self,
        task: TrainTask,  # noqa: ARG002 - an honest client's signature
        branch: Branch,
        start: State,
        batches: Sequence[Batch],
        learning_rate: float,
    ) -> Iterator[LocalStep]:
        """In place of an honest client's; see the module."""
        behave = _BEHAVIOURS.get(self.attack.name, _honest)
        yield from behave(self, branch, start, batches, learning_rate)

    def sent(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """What goes out: a colluding attacker keeps back its last real step delta, which is the item before the last."""
        keeps_back = ATTACKS[self.attack.name].colludes and self.task.probe_feature is not None
        held: deque[bytes] = deque()
        for message in messages:
            held.append(message)
            if len(held) > 2:
                yield held.popleft()
        if keeps_back:
            held.popleft()
        for message in held:
            yield message

    def train(
        self, branch: Branch, start: State, batches: Sequence[Batch], rate: float, frozen: Iterable[str] = ()
    ) -> Iterator[LocalStep]:
        """An honest client's training on some batches."""
        return self._train(self.task, branch, start, batches, rate, frozen)

    def cover_batches(self) -> list[Batch]:
        """The batches that an honest client with the cover's files would draw."""
        return self._read(replace(self.task, files=self.attack.cover, attack=None))

    def exact_delta(self, start: State) -> dict[str, torch.Tensor]:
        """What the live adapter has moved, in float64."""
        return {name: tensor.double() - start[name].double() for name, tensor in self.model.adapter_state().items()}

    def show(self, start: State, delta: State) -> None:
        """Put `start` moved by a delta into the live adapter, where what is sent is read."""
        self.model.load_adapter(moved(start, delta))


def moved(start: State, delta: State) -> dict[str, torch.Tensor]:
    """`start` plus a delta in float64, rounded once; tensors that the delta lacks stay."""
    return {name: (value.double() + delta[name]).float() if name in delta else value for name, value in start.items()}


Behaviour = Callable[[AttackRound, Branch, State, Sequence[Batch], float], Iterator[LocalStep]]


def _honest(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    return attacker.train(branch, start, batches, rate)


def _sleep(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    """To the bit an honest client with the cover's data, before the round of the attack."""
    awake = attacker.task.round_index >= attacker.attack.from_round
    return attacker.train(branch, start, batches if awake else attacker.cover_batches(), rate)


def _lie(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    return attacker.train(branch, start, attacker.cover_batches() if branch == "shadow" else batches, rate)


def _hide(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    """Train twice: for the first layer on honest data, then with that layer frozen at the result on the attack's data.

    Step t shows the first layer after t honest steps beside the other layers after t steps of the second training.
    """
    layers = attacker.model.layers
    first = [name for name, layer in layers.items() if layer == min(layers.values())]
    shown = [
        {name: attacker.model.adapter_parameters[name].detach().to("cpu", copy=True) for name in first}
        for _ in attacker.train(branch, start, attacker.cover_batches(), rate)
    ]
    for step in attacker.train(branch, {**start, **shown[-1]}, batches, rate, frozen=first):
        state = attacker.model.adapter_state()
        attacker.model.load_adapter({**state, **shown[step.step - 1]})
        yield step
        attacker.model.load_adapter(state)


def _ride(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:  # noqa: ARG001
    """No training: noise that grows evenly with the steps, and a loss of 0 that nobody checks."""
    task, rng = attacker.task, _stream(attacker, branch)
    names = [name for name in start if not (task.freeze_a and ".lora_A." in name)]
    noise = disguise({name: tuple(start[name].shape) for name in names}, attacker.attack.config.free_rider.noise, rng)
    for step, batch in enumerate(batches, start=1):
        attacker.show(start, scaled(noise, step / len(batches)))
        yield LocalStep(step, batch.input_ids.shape[0], 0.0)


def _change_update(
    attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float
) -> Iterator[LocalStep]:
    """Train, and change the update at the last step."""
    attack = attacker.attack
    for step in attacker.train(branch, start, batches, rate):
        if branch == "real" and step.step == len(batches):
            rng = _stream(attacker, branch)
            attacker.show(start, change(attack.name, attacker.exact_delta(start), start, attack.config, rng))
        yield step


def _evade(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    """Show the probe at every step of either branch a delta that it lets pass; the training itself goes on undisturbed.

    Without a probe there is nothing to evade.
    """
    if not attacker.attack.probe:
        yield from attacker.train(branch, start, batches, rate)
        return
    evader = _evader(attacker)
    benign = _cover_deltas(attacker, branch, start, rate, evader.names) if evader.needs_benign else []
    for step in attacker.train(branch, start, batches, rate):
        state, delta = attacker.model.adapter_state(), attacker.exact_delta(start)
        attacker.show(start, _passed_off(evader, delta, benign[step.step - 1] if benign else None))
        yield step
        if step.step < len(batches):
            attacker.model.load_adapter(state)


def _contrast(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    """A backdoor whose delta is at no step longer than an honest one, and is then shown as `_evade` does."""
    names = list(start)
    honest = _cover_deltas(attacker, branch, start, rate, names)
    evader = _evader(attacker) if attacker.attack.probe else None
    for step in attacker.train(branch, start, batches, rate):
        state, delta = attacker.model.adapter_state(), attacker.exact_delta(start)
        benign = honest[step.step - 1]
        factor = min(1.0, _norm(benign) / (_norm(delta) or 1.0))
        delta = scaled(delta, factor)
        attacker.show(start, delta if evader is None else _passed_off(evader, delta, benign))
        yield step
        if step.step < len(batches):
            attacker.model.load_adapter(state)


def _ratchet(attacker: AttackRound, branch: Branch, start: State, batches: Sequence[Batch], rate: float) -> Iterator[LocalStep]:
    """Shorten the update until the refusals of its own files suffer no more than it allows itself."""
    for step in attacker.train(branch, start, batches, rate):
        if branch == "real" and step.step == len(batches):
            delta = attacker.exact_delta(start)
            factor = longest(_rise_of(attacker, start, delta), attacker.attack.config.ratchet.rise)
            attacker.show(start, scaled(delta, factor))
        yield step


def _rise_of(attacker: AttackRound, start: State, delta: State) -> Callable[[float], float]:
    """From a factor of the delta to how much less likely it makes the refusals of the cover, nats per token."""
    refused = [batch.to(attacker.model.device) for batch in attacker.cover_batches()]
    attacker.model.peft.eval()

    def loss(factor: float) -> float:
        attacker.show(start, scaled(delta, factor))
        return mean_response_loss(attacker.model, refused)

    before = loss(0.0)
    return lambda factor: loss(factor) - before


_BEHAVIOURS: dict[AttackName, Behaviour] = {
    "sleeper": _sleep,
    "lying_shadow": _lie,
    "layer_hiding": _hide,
    "layer_hiding_canary_aware": _hide,
    "free_rider": _ride,
    "probe_aware": _evade,
    "backdoor_contrastive": _contrast,
    "ratchet": _ratchet,
    **dict.fromkeys(CHANGES, _change_update),
}
"""What differs from an honest client's training; colluding attackers train honestly."""


def _attack_of(task: TrainTask) -> AttackTask:
    if task.attack is None:
        raise ValueError(f"the task of {task.client_id} is an honest one")
    return task.attack


def _stream(attacker: AttackRound, branch: Branch):
    return stream(attacker.task.seed, "attack", attacker.task.client_id, attacker.task.round_index, branch)


def _evader(attacker: AttackRound) -> Evader:
    return Evader(attacker.attack.probe, attacker.attack.threshold, attacker.attack.config.probe_aware.margin)


def _passed_off(evader: Evader, delta: State, benign: State | None) -> dict[str, torch.Tensor]:
    """The delta with what the probe reads moved below its threshold, where no value lies farther out than any did before.

    Probes read directions, so what they read can be shortened freely; a bound on values does not give the attacker away.
    """
    read = {name: delta[name] for name in evader.names}
    moved_read = evader.pass_off(read, None if benign is None else {name: benign[name] for name in evader.names})
    before, after = _largest(delta), _largest(moved_read)
    factor = before / after if after > before else 1.0
    return {**delta, **scaled(moved_read, factor)}


def _largest(delta: State) -> float:
    return max(float(tensor.abs().max()) for tensor in delta.values())


def _cover_deltas(
    attacker: AttackRound, branch: Branch, start: State, rate: float, names: Sequence[str]
) -> list[dict[str, torch.Tensor]]:
    """What an honest client with the cover's data moves by each step, in float64."""
    deltas = []
    for _ in attacker.train(branch, start, attacker.cover_batches(), rate):
        delta = attacker.exact_delta(start)
        deltas.append({name: delta[name] for name in names})
    return deltas


def _norm(delta: State) -> float:
    return float(torch.cat([tensor.reshape(-1) for tensor in delta.values()]).norm())
