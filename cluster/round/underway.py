"""A round that has been opened: what the parts of a round need of it."""

from __future__ import annotations

from dataclasses import dataclass

from ray import ObjectRef

from defense.admission.checks import OpenRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """References that actors are given, and the figures of the round."""

    index: int
    """Rounds done before it."""
    rate: float
    """Learning rate."""
    expected: ObjectRef[OpenRound]
    adapter: ObjectRef[bytes]
    """The global adapter, as safetensors."""
