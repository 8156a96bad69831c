"""Live-Level: the verdict on the submitted update itself, by a probe that knows the current adapter (METHOD.md section 8).

The server computes the update's delta, so nothing that a client reports about itself counts; a refreshed probe follows
the global adapter's drift. Stateless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Evidence
from defense.levels.client import suspicion


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Evidence], *, soft: bool = False, steepness: float = 10
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = 0 where p >= threshold, else 1; soft: w = 1 - suspicion(p), the client level's curve."""
    if soft:
        return {item.client_id: 1 - suspicion(item.last_probability, item.threshold, steepness) for item in evidence}, state
    return {item.client_id: 0.0 if item.is_flagged else 1.0 for item in evidence}, state
