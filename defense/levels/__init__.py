"""Defense levels: from the evidence on a client to its weight in [0, 1].

Every level is one function `weigh(state, evidence) -> (weights, state)`: the state maps a client id to what the level
remembers of it, is plain JSON, and is never changed in place. `make_level` binds a level's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from defense.config import DefenseConfig, LevelName
from defense.evidence import Evidence
from defense.levels import client, live, none, shadow, step

State = Mapping[str, Any]
Level = Callable[[State, Sequence[Evidence]], tuple[dict[str, float], State]]

READS: dict[LevelName, Literal["real", "shadow", "update"] | None] = {
    "none": None,
    "step": "real",
    "client": "real",
    "shadow": "shadow",
    "live": "update",
}
"""What the probe scores for a level: a branch's step deltas, or the submitted update; None: the level needs no probe."""


def make_level(config: DefenseConfig) -> Level:
    """The level that `config.level` names, with its parameters."""
    levels: dict[LevelName, Level] = {
        "none": none.weigh,
        "step": partial(step.weigh, decay=config.step.decay, adapt_rounds=config.step.adapt_rounds),
        "client": partial(client.weigh, steepness=config.client.steepness, adapt_rounds=config.client.adapt_rounds),
        "shadow": partial(shadow.weigh, strength=config.shadow.strength),
        "live": partial(live.weigh, soft=config.live.soft, steepness=config.live.steepness),
    }
    return levels[config.level]
