"""No defense: every admitted client weighs 1. Plain FedAvg, the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Evidence


def weigh(state: Mapping[str, Any], evidence: Sequence[Evidence]) -> tuple[dict[str, float], Mapping[str, Any]]:
    """Weight 1 for each client; the state stays as it is."""
    return {item.client_id: 1.0 for item in evidence}, state
