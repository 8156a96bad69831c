"""How simulated attackers train: an honest client's training with one thing changed (`defense/attacks/__init__.py`).

`Client` sends what lies in the live adapter after each step. So an attack is a way to train a branch: it decides on which
data, and what lies in the live adapter at each step. Where an update is changed after training, the changed one lies there
at the last step, so that the last real StepDelta is that of the update which is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from actors.data.encoding import Batch
from actors.local_training import LocalStep, mean_response_loss
from actors.messages import Branch, TrainTask
from actors.model.adapted import AdaptedModel
from actors.seeding import stream
from actors.simulation.evader import Evader
from defense.attacks.config import AttackConfig, AttackName
from defense.attacks.own_updates import CHANGES, change, disguise, longest, scaled

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackTask:
    """How a simulated attacker behaves in one round."""

    name: AttackName
    config: AttackConfig
    cover: tuple[str, ...] = ()
    """Data files beside its own, one per cover of the attack; empty where it needs none."""
    from_round: int = 0
    """The client is honest before this round."""
    probe: Mapping[str, bytes] = field(default_factory=dict)
    """The artefact that judged the previous round, for attackers that know it; empty: there is no probe."""
    threshold: float | None = None
    """The probability at which that probe flags."""


class Train(Protocol):
    """An honest client's training of the branch; its result is the live adapter after each step."""

    def __call__(self, start: State, batches: Sequence[Batch], frozen: Iterable[str] = ()) -> Iterator[LocalStep]: ...


@dataclass(frozen=True, slots=True)
class Attacker:
    """One attacker in one branch of one round."""

    task: TrainTask
    attack: AttackTask
    branch: Branch
    model: AdaptedModel
    train: Train
    cover_batches: Callable[[], list[Batch]]
    """Draws batches from the cover's files as an honest client draws them from its own."""

    def exact_delta(self, start: State) -> dict[str, torch.Tensor]:
        """What the live adapter has moved, in float64."""
        return {name: tensor.double() - start[name].double() for name, tensor in self.model.adapter_state().items()}

    def show(self, start: State, delta: State) -> None:
        """Put `start` moved by a delta into the live adapter, where what is sent is read."""
        self.model.load_adapter(moved(start, delta))


def behave(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """The branch as the attacker trains it, in place of an honest client's training."""
    behaviour = _BEHAVIOURS.get(attacker.attack.name)
    return attacker.train(start, batches) if behaviour is None else behaviour(attacker, start, batches)


def moved(start: State, delta: State) -> dict[str, torch.Tensor]:
    """`start` plus a delta in float64, rounded once; tensors that the delta lacks stay."""
    return {name: (value.double() + delta[name]).float() if name in delta else value for name, value in start.items()}


Behaviour = Callable[[Attacker, State, Sequence[Batch]], Iterator[LocalStep]]


def _sleep(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """To the bit an honest client with the cover's data, before the round of the attack."""
    awake = attacker.task.round_index >= attacker.attack.from_round
    return attacker.train(start, batches if awake else attacker.cover_batches())


def _lie(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    return attacker.train(start, attacker.cover_batches() if attacker.branch == "shadow" else batches)


def _hide(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """Train twice: for the first layer on honest data, then with that layer frozen at the result on the attack's data.

    Step t shows the first layer after t honest steps beside the other layers after t steps of the second training.
    """
    layers = attacker.model.layers
    first = [name for name, layer in layers.items() if layer == min(layers.values())]
    shown = [
        {name: attacker.model.adapter_parameters[name].detach().to("cpu", copy=True) for name in first}
        for _ in attacker.train(start, attacker.cover_batches())
    ]
    for step, state in _undisturbed(attacker, {**start, **shown[-1]}, batches, frozen=first):
        attacker.model.load_adapter({**state, **shown[step.step - 1]})
        yield step


def _undisturbed(
    attacker: Attacker, start: State, batches: Sequence[Batch], frozen: Iterable[str] = ()
) -> Iterator[tuple[LocalStep, State]]:
    """Each step of a training with its state, from which it goes on whatever the live adapter shows in between."""
    for step in attacker.train(start, batches, frozen):
        state = attacker.model.adapter_state()
        yield step, state
        if step.step < len(batches):
            attacker.model.load_adapter(state)


def _ride(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """No training: noise that grows evenly with the steps, and a loss of 0 that nobody checks."""
    task, rng = attacker.task, _stream(attacker)
    names = [name for name in start if not (task.freeze_a and ".lora_A." in name)]
    noise = disguise({name: tuple(start[name].shape) for name in names}, attacker.attack.config.free_rider.noise, rng)
    for step, batch in enumerate(batches, start=1):
        attacker.show(start, scaled(noise, step / len(batches)))
        yield LocalStep(step, batch.input_ids.shape[0], 0.0)


def _change_update(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """Train, and change the update at the last step."""
    attack = attacker.attack
    for step in attacker.train(start, batches):
        if attacker.branch == "real" and step.step == len(batches):
            delta = attacker.exact_delta(start)
            attacker.show(start, change(attack.name, delta, start, attack.config, _stream(attacker)))
        yield step


def _evade(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """Show the probe at every step of either branch a delta that it lets pass; the training itself goes on undisturbed.

    Without a probe there is nothing to evade.
    """
    if not attacker.attack.probe:
        yield from attacker.train(start, batches)
        return
    evader = _evader(attacker)
    benign = _cover_deltas(attacker, start) if evader.needs_benign else [{}] * len(batches)
    for step, _ in _undisturbed(attacker, start, batches):
        attacker.show(start, _passed_off(evader, attacker.exact_delta(start), benign[step.step - 1]))
        yield step


def _contrast(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """A backdoor whose delta is at no step longer than an honest one, and is then shown as `_evade` does."""
    honest = _cover_deltas(attacker, start)
    evader = _evader(attacker) if attacker.attack.probe else None
    for step, _ in _undisturbed(attacker, start, batches):
        benign, delta = honest[step.step - 1], attacker.exact_delta(start)
        delta = scaled(delta, min(1.0, _norm(benign) / (_norm(delta) or 1.0)))
        attacker.show(start, delta if evader is None else _passed_off(evader, delta, benign))
        yield step


def _ratchet(attacker: Attacker, start: State, batches: Sequence[Batch]) -> Iterator[LocalStep]:
    """Shorten the update until the refusals of its own files suffer no more than it allows itself."""
    for step in attacker.train(start, batches):
        if attacker.branch == "real" and step.step == len(batches):
            delta = attacker.exact_delta(start)
            factor = longest(_rise_of(attacker, start, delta), attacker.attack.config.ratchet.rise)
            attacker.show(start, scaled(delta, factor))
        yield step


def _rise_of(attacker: Attacker, start: State, delta: State) -> Callable[[float], float]:
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


def _stream(attacker: Attacker) -> np.random.Generator:
    return stream(attacker.task.seed, "attack", attacker.task.client_id, attacker.task.round_index, attacker.branch)


def _evader(attacker: Attacker) -> Evader:
    return Evader(attacker.attack.probe, attacker.attack.threshold, attacker.attack.config.probe_aware.margin)


def _passed_off(evader: Evader, delta: State, benign: State) -> dict[str, torch.Tensor]:
    """The delta with what the probe reads moved below its threshold, where no value lies farther out than any did before.

    Probes read directions, so what they read can be shortened freely; a bound on values does not give the attacker away.
    """
    moved_read = evader.pass_off(delta, benign)
    before, after = _largest(delta), _largest(moved_read)
    return {**delta, **scaled(moved_read, before / after if after > before else 1.0)}


def _largest(delta: State) -> float:
    return max(float(tensor.abs().max()) for tensor in delta.values())


def _cover_deltas(attacker: Attacker, start: State) -> list[dict[str, torch.Tensor]]:
    """What an honest client with the cover's data moves by each step, in float64, in the order of `start`."""
    deltas = (attacker.exact_delta(start) for _ in attacker.train(start, attacker.cover_batches()))
    return [{name: delta[name] for name in start} for delta in deltas]


def _norm(delta: State) -> float:
    return float(torch.cat([tensor.reshape(-1) for tensor in delta.values()]).norm())
