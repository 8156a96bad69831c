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


def complete_pairs(names: Iterable[str]) -> list[Pair]:
    """The modules both of whose factors are among the names, in order of name."""
    known = set(names)
    pairs = [Pair(a=name, b=name.replace(_A, _B)) for name in sorted(frozen_names(known))]
    return [pair for pair in pairs if pair.b in known]


def lora_pairs(names: Iterable[str]) -> list[Pair]:
    """The modules' factors in order of name; raises ValueError when a parameter has no partner."""
    known = sorted(names)
    pairs = complete_pairs(known)
    paired = {name for pair in pairs for name in (pair.a, pair.b)}
    if odd := sorted(paired.symmetric_difference(known)):
        raise ValueError(f"aggregation.averaging=svd needs pairs of lora_A and lora_B; {odd[0]} is none, or lacks its partner")
    return pairs


def frozen_names(names: Iterable[str]) -> frozenset[str]:
    """The parameters that FFA-LoRA does not train: every A (Sun, Li, Li and Ding, ICLR 2024, arXiv 2403.12313).

    A stays the initial adapter's. With one A for all clients the mean of the B A is (mean of B) A, so averaging is exact under
    every rule that averages.
    """
    return frozenset(name for name in names if _A in name)
