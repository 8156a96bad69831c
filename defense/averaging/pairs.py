"""LoRA's factors by their PEFT parameter names: `...lora_A.weight` (r, in) and `...lora_B.weight` (out, r)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True, slots=True)
class Pair:
    """The names of one module's factors."""

    a: str
    b: str


def is_a(name: str) -> bool:
    """Whether the parameter is a module's A."""
    return _A in name


def complete_pairs(names: Iterable[str]) -> list[Pair]:
    """The modules both of whose factors are among the names, in order of name."""
    known = set(names)
    pairs = [Pair(a=name, b=name.replace(_A, _B)) for name in sorted(known) if is_a(name)]
    return [pair for pair in pairs if pair.b in known]


def lora_pairs(names: Iterable[str]) -> list[Pair]:
    """The modules' factors in order of name; raises ValueError when a parameter has no partner."""
    known = sorted(names)
    pairs = complete_pairs(known)
    paired = {name for pair in pairs for name in (pair.a, pair.b)}
    if odd := sorted(paired.symmetric_difference(known)):
        raise ValueError(f"aggregation.averaging=svd needs pairs of lora_A and lora_B; {odd[0]} is none, or lacks its partner")
    return pairs
