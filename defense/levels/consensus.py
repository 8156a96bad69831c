"""Consensus: whether a client has pulled with the others or against them so far (METHOD.md section 8, known open gap).

An honest update with its sign turned raises no refusal's loss and is no malicious one to a probe; it undoes what the
others learn. In one round's noise a direction tells little, so it is averaged over the client's rounds. Judges only
clients that the other levels let through, and gives no verdict where it would put out half of them or more
(`defense/agreement.py`): it is blind where those who turn are as many as the honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defense.evidence import Agreement

_NEW = {"cosines": 0.0, "rounds": 0.0}


def weigh(
    state: Mapping[str, Any], evidence: Sequence[Agreement], *, min_cosine: float = -0.1, decay: float = 0.9
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """w = 1 while the mean cosine of the client's rounds, older ones fading by `decay`, is at least `min_cosine`, else 0.

    Example: cosines of -0.4 and 0.3 with decay 0.5: means -0.4, then (-0.2 + 0.3) / 1.5 = 0.067; weights 0, then 1.
    """
    new = dict(state)
    for item in evidence:
        past = new.get(item.client_id, _NEW)
        cosines, rounds = decay * past["cosines"] + item.cosine, decay * past["rounds"] + 1
        new[item.client_id] = {"cosines": cosines, "rounds": rounds}
    return {item.client_id: 0.0 if is_outcast(new, item.client_id, min_cosine) else 1.0 for item in evidence}, new


def is_outcast(state: Mapping[str, Any], client_id: str, min_cosine: float) -> bool:
    """Whether the client has pulled against the others so far, so that it is none of those that a client is compared with."""
    past = state.get(client_id, _NEW)
    return past["rounds"] > 0 and not past["cosines"] / past["rounds"] >= min_cosine
