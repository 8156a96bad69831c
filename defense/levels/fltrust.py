"""FLTrust-style validation: whether an update points where the server's own points (Cao, Fang, Liu and Gong, NDSS 2021,
arXiv 2012.13995). A baseline.

The server trains an update on a little clean data of the clients' own task (the authors: 100 examples). A client weighs its
trust score of their equation 2, the cosine of its update to that one, clipped at 0. The authors also stretch every update to
the length of the server's; here admission bounds lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Validated


def weigh(state: Mapping[str, Any], evidence: Sequence[Validated]) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = max(0, cosine); NaN is 0."""
    return {item.client_id: _trust(item.cosine) for item in evidence}, state


def _trust(cosine: float) -> float:
    return min(1.0, cosine) if cosine > 0 else 0.0
