"""Ratchet (METHOD.md section 8): a canary that compares with the current adapter can be outlasted a little every round.

The attacker shortens its malicious update until its own refusals suffer no more than it allows itself.
"""

from __future__ import annotations

from collections.abc import Callable

_HALVINGS = 8


def longest(rise: Callable[[float], float], allowed: float) -> float:
    """The largest factor in [0, 1] found whose rise is at most `allowed`, taking the rise to grow with the factor."""
    if rise(1.0) <= allowed:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rise(middle) <= allowed else (low, middle)
    return low
