"""FFA-LoRA (Sun, Li, Li and Ding, ICLR 2024, arXiv 2403.12313): A stays the initial adapter's, only B is trained.

With one A for all, the mean of the B A is (mean of B) A, so that averaging is exact under every rule that averages.
"""

from __future__ import annotations

from collections.abc import Iterable

from defense.averaging.pairs import is_a


def frozen_names(names: Iterable[str]) -> frozenset[str]:
    """The parameters that nobody trains: every A."""
    return frozenset(name for name in names if is_a(name))
