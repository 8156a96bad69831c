"""Utility: whether an update undoes what a task of the clients has learned (docs/method.md section 8).

The server holds a few rows of each task. With g the gradient of a task's loss at the global adapter, an update d raises that
loss by g . d to first order. Honest clients of the task lower it, and those of other tasks hardly move it; one that answers the
task by another rule raises it, and points along g. The cosine between g and d does not depend on the learning rate, so reference
clients of an earlier round still bound it. One gradient of each task a round is all that it takes: a client costs a dot product.
Stateless.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field

from defense.bounds import FISHER
from defense.levels.level import Bounded, Level
from defense.odds import MENTION
from defense.settings import Settings

TASK_RISE, TASK_COSINE = "task_rise", "task_cosine"
"""Of the task that an update harms most: by how much it raises the negative log-likelihood of an answer to first order, nats; and
the cosine between the gradient of that loss and the update, in [-1, 1]."""
LEAST_RISE = math.log(MENTION)
"""A smaller rise is no harm that is worth an exclusion: it makes an answer less than three times less likely. Nats."""


class UtilitySettings(Settings):
    """How much an update may point against a task of the server's validation rows."""

    max_cosine: float | None = Field(default=None, gt=0, le=1)
    """Cosine from which on an update that harms the task weighs 0; None: from the server's reference clients."""


def harms(values: Mapping[str, float]) -> bool:
    """Whether the update makes answers of a task three times less likely; also where that is not known."""
    return not values[TASK_RISE] < LEAST_RISE


LEVEL = Level(
    reads="validation",
    columns=(TASK_RISE, TASK_COSINE),
    bounded=Bounded(
        column=TASK_COSINE,
        title="cosine to the unlearning of a task",
        key="defense.utility.max_cosine",
        by_hand=lambda config, threshold: config.utility.max_cosine,  # noqa: ARG005
        scale=FISHER,
        unsafe=lambda benign: (1.0,),  # noqa: ARG005 - nothing but unlearning; most who answer otherwise are nearer
        half_way=None,
        judges=harms,
    ),
)
