"""Spectrum: whether an update is noise (our own; no paper's).

Gradients of a batch are sums of few outer products, and what a client learns from them lies in few directions of each LoRA
factor. Noise of the same length, which neither a norm bound nor a comparison with the other clients tells from a client with a
task of its own, fills all directions alike. Stateless. It stops no attacker who gives the noise an honest spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Spectrum


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Spectrum], *, max_flatness: float = 0.9
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = 0 where the update's spectrum is flatter than `max_flatness` (1: that of noise), else 1; NaN is 0."""
    return {item.client_id: 1.0 if item.flatness <= max_flatness else 0.0 for item in evidence}, state
