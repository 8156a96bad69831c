"""Defense levels: from the evidence on a client to its weight in [0, 1].

Every level is one function `weigh(state, evidence) -> (weights, state)`: the state maps a client id to what the level
remembers of it, is plain JSON, and is never changed in place. `single_level` binds a level's parameters; `make_level`
composes those that judge each client by itself, by the minimum of their weights; `defense/agreement.py` then judges those
of weight above 0 by each other. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from defense.config import DefenseConfig, LevelName
from defense.evidence import PROBED, ClientEvidence, Source
from defense.levels import canary, client, consensus, evidence, fltrust, live, none, shadow, spectrum, step, zeno

State = Mapping[str, Any]
Level = Callable[[State, Sequence[Any]], tuple[dict[str, float], State]]
"""A level that sees the evidence of its source."""
Composition = Callable[[State, Sequence[ClientEvidence]], tuple[dict[str, float], State]]
"""Several levels; the state maps a level's name to its state."""

READS: dict[LevelName, Source | None] = {
    "none": None,
    "step": "real",
    "client": "real",
    "shadow": "shadow",
    "evidence": "shadow",
    "live": "update",
    "canary": "canary",
    "spectrum": "spectrum",
    "consensus": None,
    "fltrust": "validation",
    "zeno": "validation",
}
"""What a level weighs of what is said about one client: the probe's scores of a branch's step deltas or of the submitted
update, what the update does to the canary, what validation data or its own spectrum says of it; None: nothing."""


def single_level(name: LevelName, config: DefenseConfig) -> Level:
    """One level with its parameters."""
    levels: dict[LevelName, Level] = {
        "none": none.weigh,
        "step": partial(step.weigh, decay=config.step.decay, adapt_rounds=config.step.adapt_rounds),
        "client": partial(client.weigh, steepness=config.client.steepness, adapt_rounds=config.client.adapt_rounds),
        "shadow": partial(shadow.weigh, strength=config.shadow.strength),
        "evidence": partial(evidence.weigh, strength=config.shadow.strength, **config.evidence.model_dump()),
        "live": partial(live.weigh, soft=config.live.soft, steepness=config.live.steepness),
        "canary": partial(canary.weigh, max_rise=config.canary.max_rise),
        "spectrum": partial(spectrum.weigh, max_flatness=config.spectrum.max_flatness),
        "consensus": partial(consensus.weigh, **config.consensus.model_dump()),
        "fltrust": fltrust.weigh,
        "zeno": partial(zeno.weigh, **config.zeno.model_dump()),
    }
    return levels[name]


def make_level(config: DefenseConfig) -> Composition:
    """The levels of `config.level` that judge each client by itself: a client weighs the least of what they say."""
    return partial(_weigh_all, {name: single_level(name, config) for name in config.levels if name != "consensus"})


def compares(config: DefenseConfig) -> bool:
    """Whether a level judges clients by each other, so that all of a round must be there first."""
    return "consensus" in config.levels


def sources_of(config: DefenseConfig) -> frozenset[Source]:
    """What the levels read."""
    return frozenset(READS[name] for name in config.levels if READS[name] is not None)


def probed_sources(config: DefenseConfig) -> frozenset[Source]:
    """What they read that is the probe's."""
    return sources_of(config) & PROBED


def wants_shadow(config: DefenseConfig, state: State, client_id: str) -> bool:
    """Whether the client has to train a shadow in its next round."""
    if "shadow" in config.levels:
        return True
    return "evidence" in config.levels and evidence.wants_shadow(
        state.get("evidence", {}), client_id, audit_every=config.evidence.audit_every, appeal_after=config.evidence.appeal_after
    )


def is_banned(state: State, client_id: str) -> bool:
    """Whether a level has frozen the client as malicious, so that `min_weight` must not lift it."""
    return evidence.is_banned(state.get("evidence", {}), client_id)


def _weigh_all(
    levels: Mapping[LevelName, Level], state: State, given: Sequence[ClientEvidence]
) -> tuple[dict[str, float], State]:
    weights, new = {item.client_id: 1.0 for item in given}, dict(state)
    for name, weigh in levels.items():
        items = given if READS[name] is None else [item.by_source[READS[name]] for item in given]
        own, new[name] = weigh(state.get(name, {}), items)
        weights = {client_id: min(weight, own[client_id]) for client_id, weight in weights.items()}
    return weights, new
