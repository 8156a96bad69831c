"""Admission: what a client sent is checked against the open round and the global adapter before it counts.

Pure functions over decoded messages. Each returns None for "admitted", or the refusal with its detail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch


class Reason(StrEnum):
    """Why an update does not count."""

    MALFORMED = "malformed"
    """The bytes are not a message of the expected kind."""
    UNKNOWN_CLIENT = "unknown_client"
    WRONG_ROUND = "wrong_round"
    WRONG_VERSION = "wrong_version"
    DUPLICATE = "duplicate"
    WRONG_KEYS = "wrong_keys"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    NOT_FINITE = "not_finite"
    NORM_EXCEEDED = "norm_exceeded"
    BAD_COUNT = "bad_count"
    """A number of samples or a step outside what the round allows."""
    UNTIED_EVIDENCE = "untied_evidence"
    """The last real step delta is missing, or is not the delta of the submitted update."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was refused, with the figures."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """What the server expects of every message of the round."""

    round_index: int
    base_version: int
    client_ids: frozenset[str]
    """The clients sampled for this round."""
    num_steps: int
    """Local steps asked for."""
    batch_size: int
    max_norm: float
    """Largest L2 norm of a delta over all its tensors."""
    reads: str | None = None
    """What the level weighs: step deltas of the branch `real` or `shadow`, or the `update`; None: not told."""

    @property
    def max_samples(self) -> int:
        return self.num_steps * self.batch_size


class FromClient(Protocol):
    """The plain fields that step deltas and updates share."""

    client_id: str
    round_index: int
    base_version: int
    num_samples: int


def check_sender(message: FromClient, expected: OpenRound) -> Refusal | None:
    """Client known and sampled, right round, right base version."""
    if message.client_id not in expected.client_ids:
        return Refusal(
            Reason.UNKNOWN_CLIENT, f"{message.client_id!r:.80} is not among the {len(expected.client_ids)} clients of the round"
        )
    if message.round_index != expected.round_index:
        return Refusal(Reason.WRONG_ROUND, f"sent for round {message.round_index}, round {expected.round_index} is open")
    if message.base_version != expected.base_version:
        return Refusal(
            Reason.WRONG_VERSION, f"trained from adapter {message.base_version}, the global adapter is {expected.base_version}"
        )
    return None


def check_count(name: str, value: int, most: int) -> Refusal | None:
    """`value` counts something and must lie in 1 ... `most`."""
    if not 1 <= value <= most:
        return Refusal(Reason.BAD_COUNT, f"{name}={value} is outside 1 to {most}")
    return None


def check_tensors(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Refusal | None:
    """Exact key set, float32, exact shapes, finite values."""
    if set(tensors) != set(shapes):
        missing, extra = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
        return Refusal(Reason.WRONG_KEYS, f"{len(missing)} missing {missing[:2]}, {len(extra)} unexpected {extra[:2]}"[:300])
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32:
            return Refusal(Reason.WRONG_DTYPE, f"{name} is {tensor.dtype}, expected torch.float32")
        if tuple(tensor.shape) != tuple(shape):
            return Refusal(Reason.WRONG_SHAPE, f"{name} is {tuple(tensor.shape)}, expected {tuple(shape)}")
        if not bool(torch.isfinite(tensor).all()):
            return Refusal(Reason.NOT_FINITE, f"{name} holds NaN or infinity")
    return None


def check_norm(delta: Mapping[str, torch.Tensor], max_norm: float) -> Refusal | None:
    """L2 norm over all tensors of a delta, accumulated in float64."""
    norm = delta_norm(delta)
    if not norm <= max_norm:
        return Refusal(Reason.NORM_EXCEEDED, f"the delta's norm {norm:.4g} is above the bound {max_norm:.4g}")
    return None


def check_tie(delta: Mapping[str, torch.Tensor], last_step: Mapping[str, torch.Tensor]) -> Refusal | None:
    """The last real step delta must be the submitted delta, to the bit, in every tensor it carries.

    It must carry at least one. Bits are compared, so that 0.0 is not -0.0.
    """
    if not last_step:
        return Refusal(Reason.UNTIED_EVIDENCE, "the last step delta carries no tensor")
    for name, tensor in last_step.items():
        if name not in delta or not _same_bits(delta[name], tensor):
            return Refusal(Reason.UNTIED_EVIDENCE, f"{name} of the last step delta differs from the submitted update")
    return None


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def delta_norm(delta: Mapping[str, torch.Tensor]) -> float:
    """L2 norm over all tensors, in float64."""
    return math.sqrt(sum(float(delta[name].double().square().sum()) for name in sorted(delta)))


def adamw_norm_bound(factor: float, learning_rate: float, num_steps: int, num_values: int) -> float:
    """A bound on an honest delta's norm: AdamW moves each value by about the learning rate per step."""
    return factor * learning_rate * num_steps * math.sqrt(num_values)
