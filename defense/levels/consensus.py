"""Consensus: whether a client has pulled with the others or against them so far, and how many send what it sends (docs/method.md
section 8).

An honest update with its sign turned raises no refusal's loss and is no malicious one to a probe; it undoes what the
others learn. In one round's noise a direction tells little, so it is averaged over the client's rounds. Consensus judges only
clients that the other levels let through. It gives no verdict where it would exclude half of them or more: a few identical
updates against everybody else's can turn the mean of the others for each honest client. Then the weights of the round before
stand, and the round changes no trust. Of the clients that pull with the others, those of a group that sends the same count
together about as much as one that does not (`defense/levels/copies.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from defense.bounds import FISHER, Bound
from defense.levels.level import Bounded, Comparison, Level, Trust, Weights
from defense.settings import Settings

if TYPE_CHECKING:
    from defense.config import DefenseConfig
    from defense.rules.round_updates import RoundUpdates

AGREEMENT = "agreement"
"""Cosine of the update to the mean of the others' updates, in [-1, 1]; 0 where one of them points nowhere."""
COPIES = "copies"
"""How many updates of the round go this one's way, itself included: 1 to the number of clients that are compared."""
_NEW = {"excess": 0.0, "rounds": 0.0}


class ConsensusSettings(Settings):
    """Whether a client pulls with the others or against them (docs/method.md section 8)."""

    min_cosine: float | None = Field(default=None, ge=-1, le=1)
    """Cosine of a client's update to those of the others, at or below which it weighs 0 in the mean over its rounds; None: the
    server's reference clients give it."""
    decay: float = Field(default=0.9, gt=0, le=1)
    """How older rounds fade, per own round of the client."""


def weigh(trust: Trust, cosines: Mapping[str, float], bound: Bound, *, decay: float = 0.9) -> tuple[Weights, Trust]:
    """w = 0 where the client lies at or below the bounds of its rounds in the mean, older rounds fading by `decay`, else 1.

    A round counts by how far its cosine lies above its own bound: bounds differ from round to round.

    Args:
        cosines: Client id -> cosine of its update to the others'.

    Example: 0.2 below the bound, then 0.3 above, with decay 0.5: means -0.2, then (-0.1 + 0.3) / 1.5 = 0.133; weights 0, then 1.
    """
    new = dict(trust)
    for client_id, cosine in cosines.items():
        past = new.get(client_id, _NEW)
        excess = cosine - (bound.limit or 0.0)
        new[client_id] = {"excess": decay * past["excess"] + excess, "rounds": decay * past["rounds"] + 1}
    return {client_id: 0.0 if is_outcast(new, client_id, bound) else 1.0 for client_id in cosines}, new


def is_outcast(trust: Trust, client_id: str, bound: Bound) -> bool:
    """Whether the client has pulled against the others so far; then it is not among those that a client is compared with."""
    excess = mean_excess(trust, client_id)
    if excess is None or bound.state == "abstains":
        return False
    return bound.state == "missing" or not excess > 0


def mean_excess(trust: Trust, client_id: str) -> float | None:
    """How far the client's cosines lie above their rounds' bounds in the mean, older ones fading; None: it has none."""
    past = trust.get(client_id, _NEW)
    return past["excess"] / past["rounds"] if past["rounds"] > 0 else None


def compare(config: DefenseConfig, trust: Trust, updates: RoundUpdates, bound: Bound) -> Comparison:
    """Judge a round's clients by each other.

    Args:
        updates: Their updates with the weights above 0 that the other levels gave. A client counts among the others by its
            weight, unless it has pulled against them in the rounds before.
    """
    from defense.levels.agreement import agreements  # torch, which the settings must not load
    from defense.levels.copies import copies, one_of_many

    ids = [item.client_id for item in updates.updates]
    outcast = {client_id: is_outcast(trust, client_id, bound) for client_id in ids}
    counts = copies(updates)
    parts = one_of_many(counts)
    masses = [0.0 if outcast[item.client_id] else part * item.weight for item, part in zip(updates.updates, parts, strict=True)]
    cosines = dict(zip(ids, agreements(updates, masses), strict=True))
    weights, after = weigh(trust, cosines, bound, decay=config.consensus.decay)
    if bound.state != "missing" and 2 * list(weights.values()).count(0.0) >= len(weights):
        after, weights = trust, {client_id: 0.0 if out else 1.0 for client_id, out in outcast.items()}
    return Comparison(
        weights={client_id: part * weights[client_id] for client_id, part in zip(ids, parts, strict=True)},
        trust=after,
        values={client_id: {AGREEMENT: cosines[client_id], COPIES: count} for client_id, count in zip(ids, counts, strict=True)},
        judged={client_id: (bound.limit or 0.0) + (mean_excess(after, client_id) or 0.0) for client_id in ids},
    )


LEVEL = Level(
    compare=compare,
    trusts=mean_excess,
    columns=(AGREEMENT, COPIES),
    bounded=Bounded(
        column=AGREEMENT,
        title="agreement in the mean over the client's rounds",
        key="defense.consensus.min_cosine",
        by_hand=lambda config, threshold: config.consensus.min_cosine,  # noqa: ARG005
        side="below",
        scale=FISHER,
        unsafe=lambda benign: (-1.0,),  # noqa: ARG005 - turned, where all others agree; most turned updates are nearer
        half_way=None,
    ),
)
