"""Shadow-Level: suppression by the flagged share of a shadow branch that starts from a fixed adapter every round.

Resists drift of the global model (Safe-FedLLM, METHOD.md section 3). Stateless. The shadow is reported by the client
itself, so a client that lies in it passes (METHOD.md section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Evidence


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Evidence], *, strength: float = 7
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = (1 - r) ** strength, r the share of samples in flagged shadow steps."""
    return {item.client_id: (1 - item.ratio) ** strength for item in evidence}, state
