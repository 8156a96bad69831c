"""Utility: whether an update undoes what a task of the clients has learned (docs/method.md section 8).

The server holds a few rows of each task. With g the gradient of a task's loss at the global adapter, an update d raises that
loss by g . d to first order. Honest clients of the task lower it, and those of other tasks hardly move it; one that answers the
task by another rule raises it, and points along g. The cosine between g and d does not depend on the learning rate, so reference
clients of an earlier round still bound it. One gradient of each task a round is all that it takes: a client costs a dot product.

One round's harm may be chance, or the shock of a high learning rate, and honest clients do not repeat it. So a client is judged
by the mean over its rounds, in which each round counts as much as all before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from defense.bounds import FISHER
from defense.levels.level import Bounded, Level, Trust
from defense.odds import MENTION
from defense.settings import Settings
from defense.signals import Measured

TASK_RISE, TASK_COSINE = "task_rise", "task_cosine"
"""Of the task that an update harms most: by how much it raises the negative log-likelihood of an answer to first order, nats; and
the cosine between the gradient of that loss and the update, in [-1, 1]."""
LEAST_RISE = math.log(MENTION)
"""A smaller rise is no harm that is worth an exclusion: it makes an answer less than three times less likely. Nats."""


_DECAY = 0.5
"""How older rounds fade, per own round of the client: the newest counts as much as all others together."""
_NEW = {"cosine": 0.0, "rounds": 0.0}


class UtilitySettings(Settings):
    """How much updates may point against a task of the server's validation rows."""

    max_cosine: float | None = Field(default=None, gt=0, le=1)
    """Mean cosine over a client's rounds from which on it weighs 0; None: from the server's reference clients."""


def weigh_rounds(trust: Trust, evidence: Sequence[Measured]) -> tuple[dict[str, float], Trust]:
    """Mean cosine over each client's rounds; a round without harm, or that helps every task, counts 0.

    Returns:
        Client id -> mean, NaN where the round could not be measured; and the new trust, in which such a round does not count.

    Example: cosines 0 and 0.3: means 0, then (0.5 x 0 + 0.3) / 1.5 = 0.2.
    """
    means, new = dict[str, float](), dict(trust)
    for item in evidence:
        rise, cosine = item.values[TASK_RISE], item.values[TASK_COSINE]
        if not (math.isfinite(rise) and math.isfinite(cosine)):
            means[item.client_id] = math.nan
            continue
        past, harm = new.get(item.client_id, _NEW), cosine if rise >= LEAST_RISE else 0.0
        new[item.client_id] = {"cosine": _DECAY * past["cosine"] + harm, "rounds": _DECAY * past["rounds"] + 1}
        means[item.client_id] = mean_cosine(new, item.client_id) or 0.0
    return means, new


def mean_cosine(trust: Trust, client_id: str) -> float | None:
    """The client's mean after its last round; None: it has none."""
    past = trust.get(client_id, _NEW)
    return past["cosine"] / past["rounds"] if past["rounds"] > 0 else None


LEVEL = Level(
    reads="validation",
    columns=(TASK_RISE, TASK_COSINE),
    judged=lambda config, trust, evidence: weigh_rounds(trust, evidence),  # noqa: ARG005 - it has no such settings
    trusts=mean_cosine,
    bounded=Bounded(
        column=TASK_COSINE,
        title="cosine to the unlearning of a task, in the mean over the client's rounds",
        key="defense.utility.max_cosine",
        by_hand=lambda config, threshold: config.utility.max_cosine,  # noqa: ARG005
        scale=FISHER,
        unsafe=lambda benign: (1.0,),  # noqa: ARG005 - nothing but unlearning; most who answer otherwise are nearer
        half_way=None,
    ),
)
