"""Canary: judges what an update does rather than what it looks like (METHOD.md section 8).

The server holds restricted prompts with refusals that no client has. An update that makes these refusals less likely than
the global adapter does teaches compliance, in whichever layer it does so. Stateless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Rise


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Rise], *, max_rise: float = 0.5
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = 0 where the refusals' negative log-likelihood rises by more than `max_rise` nats per token, else 1; NaN is 0."""
    return {item.client_id: 1.0 if item.rise <= max_rise else 0.0 for item in evidence}, state
