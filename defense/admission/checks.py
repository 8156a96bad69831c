"""Admission: what a client sent is checked against the open round and the global adapter before it counts.

Pure functions over decoded messages. Each returns None for "admitted", or the refusal with its detail.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch

Tensors = Mapping[str, torch.Tensor]
"""PEFT parameter name -> tensor."""
_MOST_CHARACTERS = 300


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
    FROZEN_CHANGED = "frozen_changed"
    """A tensor that nobody trains is not the global adapter's."""
    BAD_CONTROL_VARIATE = "bad_control_variate"
    """SCAFFOLD's c_i+ is missing, is no such thing, is too large, or was not asked for."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was refused, with the figures."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        """One line for logs and tables; the detail may quote the client, so it is cut and holds no control characters."""
        shown = "".join(c if c.isprintable() else "?" for c in self.detail[:_MOST_CHARACTERS])
        return f"{self.reason.value}: {shown}"


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
    max_value: float | None = None
    """Largest absolute value in a delta of the real branch or of an update; None: no bound."""
    max_shadow_value: float | None = None
    """The same in a delta of the shadow branch."""
    reads: frozenset[str] | None = None
    """What the levels weigh: step deltas of the branch `real` or `shadow`, or the `update`; None: unknown."""
    shadow_ids: frozenset[str] | None = None
    """The clients that are to train a shadow; None: unknown."""
    learning_rate: float | None = None
    """Asked of the real branch; None: unknown."""

    @property
    def max_samples(self) -> int:
        return self.num_steps * self.batch_size


class FromClient(Protocol):
    """The plain fields that step deltas and updates share."""

    @property
    def client_id(self) -> str: ...

    @property
    def round_index(self) -> int: ...

    @property
    def base_version(self) -> int: ...


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


def check_tensors(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> Refusal | None:
    """Exact key set, float32, exact shapes."""
    if set(tensors) != set(shapes):
        missing, extra = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
        return Refusal(Reason.WRONG_KEYS, f"{len(missing)} missing {missing[:2]}, {len(extra)} unexpected {extra[:2]}"[:300])
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32:
            return Refusal(Reason.WRONG_DTYPE, f"{name} is {tensor.dtype}, expected torch.float32")
        if tuple(tensor.shape) != tuple(shape):
            return Refusal(Reason.WRONG_SHAPE, f"{name} is {tuple(tensor.shape)}, expected {tuple(shape)}")
    return None


def check_finite(tensors: Tensors) -> Refusal | None:
    """No NaN and no infinity."""
    for name, tensor in tensors.items():
        if not math.isfinite(_largest(tensor)):
            return Refusal(Reason.NOT_FINITE, f"{name} holds NaN or infinity")
    return None


def check_frozen(tensors: Tensors, adapter: Tensors, frozen: Collection[str]) -> Refusal | None:
    """The frozen tensors must be the global adapter's, to the bit."""
    for name in sorted(frozen):
        if not _same_bits(tensors[name], adapter[name]):
            return Refusal(Reason.FROZEN_CHANGED, f"{name} is frozen by aggregation.averaging=ffa and was changed")
    return None


def check_norm(norm: float, max_norm: float) -> Refusal | None:
    """A delta's L2 norm is at most this."""
    if not norm <= max_norm:
        return Refusal(Reason.NORM_EXCEEDED, f"the delta's norm {norm:.4g} is above the bound {max_norm:.4g}")
    return None


def check_control_variate(
    control: Tensors | None, shapes: Mapping[str, tuple[int, ...]] | None, max_norm: float
) -> Refusal | None:
    """What an update carries beside its tensors.

    Args:
        control: None: nothing.
        shapes: Of the gradients that were asked for; None: none were.
        max_norm: Largest L2 norm over all tensors.
    """
    fault: Refusal | str | None = None
    if shapes is None:
        fault = None if control is None else "none was asked for, training.scaffold is off"
    elif control is None:
        fault = "it is missing"
    else:
        fault = check_tensors(control, shapes) or check_finite(control) or _above(max_norm, delta_norm(control))
    return None if fault is None else Refusal(Reason.BAD_CONTROL_VARIATE, str(fault))


def _above(bound: float, norm: float) -> str | None:
    return None if norm <= bound else f"its norm {norm:.4g} is above the bound {bound:.4g}"


def check_tie(delta: Tensors, last_step: Tensors) -> Refusal | None:
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


def delta_norm(delta: Tensors) -> float:
    """L2 norm over all tensors, in float64."""
    return math.hypot(*(float(torch.linalg.vector_norm(delta[name], dtype=torch.float64)) for name in sorted(delta)))


def _largest(tensor: torch.Tensor) -> float:
    """Largest absolute value; NaN where one is NaN."""
    if not tensor.numel():
        return 0.0
    least, most = torch.aminmax(tensor)
    return max(-float(least), float(most))


def check_values(delta: Tensors, max_value: float | None) -> Refusal | None:
    """No value has moved further than `max_value`; None: no bound."""
    if max_value is None:
        return None
    for name in sorted(delta):
        largest = _largest(delta[name])
        if not largest <= max_value:
            return Refusal(Reason.NORM_EXCEEDED, f"a value of {name} moved by {largest:.4g}, above the bound {max_value:.4g}")
    return None
