"""What a client sends in a round, taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from actors.client import Client
from actors.messages import LoRAUpdate, StepDelta, TrainTask
from actors.wire import decode_message, decode_tensors
from tests.unit.actors.builders import Tensors


@dataclass(frozen=True)
class Sent:
    """Everything that a client sends."""

    payloads: list[bytes]
    steps: Mapping[tuple[str, int], Tensors]
    """Step deltas by branch and step."""
    update: LoRAUpdate
    delta: Tensors
    """Of the update, float64."""


def trained(client: Client, task: TrainTask, start: bytes, difference: bytes | None = None) -> Sent:
    """Let a client train."""
    *deltas, last = payloads = [*client.train(task, start, difference)]
    decoded, update = [decode_message(payload, StepDelta) for payload in deltas], decode_message(last, LoRAUpdate)
    base = decode_tensors(start)
    return Sent(
        payloads=payloads,
        steps={(delta.branch, delta.step): delta.tensors for delta in decoded},
        update=update,
        delta={name: tensor.double() - base[name].double() for name, tensor in update.tensors.items()},
    )


def flat(tensors: Tensors) -> torch.Tensor:
    return torch.cat([tensors[name].double().reshape(-1) for name in sorted(tensors)])


def equal(one: Tensors, other: Tensors) -> bool:
    """To the bit."""
    return set(one) == set(other) and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
