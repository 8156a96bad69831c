"""Aggregation rules over the weighted, admitted updates: one file each, pure, in float64.

Every rule is three pure functions: `init() -> state`, `add(state, update) -> state`, and
`finish(state, memory, rng) -> Aggregate`, the pseudo-gradient by which the global adapter moves and what the rule remembers
until the next aggregated round. A client of weight 0 is never added, so its update cannot touch the result. FedAvg streams;
the others gather the updates first, and so does FedAvg where products are averaged (`defense/averaging/svd.py`, which then
finishes the round). `make_rule` binds a rule's parameters and its pre-aggregation.

Selection and distances are unweighted, every mean is weighted by n w, median and trimmed mean by w (CONTRACT.md). What is
computed depends on client ids and never on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from defense.config import AggregationConfig, RuleName
from defense.rules import (
    bulyan,
    centered_clipping,
    dnc,
    fedavg,
    flame,
    foolsgold,
    gather,
    geometric_median,
    krum,
    lasa,
    median,
    multi_krum,
    nnm,
    residual,
    trimmed_mean,
)
from defense.rules.gather import Gathered
from defense.rules.rule import Aggregate, Memory, Rule

REMEMBERS_CLIENTS: frozenset[RuleName] = frozenset({"foolsgold"})
"""Rules whose memory is about the clients, as trust is, and not about where the adapter was heading."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a rule that gathers may use."""

    updates: Gathered
    f: int
    """f', the attackers to assume."""
    memory: Memory
    rng: np.random.Generator


def make_rule(config: AggregationConfig) -> Rule:
    """The rule that `config.rule` names, after the pre-aggregation, with its parameters."""
    if config.rule == "fedavg" and config.pre == "none" and config.averaging != "svd":
        return Rule(init=fedavg.init, add=fedavg.add, finish=_finish_stream)
    return Rule(init=Gathered, add=gather.add, finish=partial(_finish_gathered, config=config))


def forgetful_rules(config: AggregationConfig) -> dict[RuleName, Callable[[Given], dict[str, torch.Tensor]]]:
    """Rules that judge every round by itself."""
    return {
        "fedavg": lambda given: gather.mean(given.updates, given.updates.masses_N),
        "median": lambda given: median.aggregate(given.updates),
        "trimmed_mean": lambda given: trimmed_mean.aggregate(given.updates, f=given.f),
        "krum": lambda given: krum.aggregate(given.updates, f=given.f),
        "multi_krum": lambda given: multi_krum.aggregate(given.updates, f=given.f),
        "bulyan": lambda given: bulyan.aggregate(given.updates, f=given.f),
        "geometric_median": lambda given: geometric_median.aggregate(given.updates, **config.geometric_median.model_dump()),
        "dnc": lambda given: dnc.aggregate(given.updates, given.rng, f=given.f, **config.dnc.model_dump()),
        "flame": lambda given: flame.aggregate(given.updates, given.rng, **config.flame.model_dump()),
        "residual": lambda given: residual.aggregate(given.updates, **config.residual.model_dump()),
        "lasa": lambda given: lasa.aggregate(given.updates, **config.lasa.model_dump()),
    }


def remembering_rules(config: AggregationConfig) -> dict[RuleName, Callable[[Given], tuple[dict[str, torch.Tensor], Memory]]]:
    """Rules that carry a memory across rounds."""
    return {
        "centered_clipping": lambda given: centered_clipping.aggregate(
            given.updates, given.memory, **config.centered_clipping.model_dump()
        ),
        "foolsgold": lambda given: foolsgold.aggregate(given.updates, given.memory, **config.foolsgold.model_dump()),
    }


def _finish_stream(state: fedavg.WeightedSum, memory: Memory, rng: np.random.Generator) -> Aggregate:  # noqa: ARG001
    return Aggregate(delta=fedavg.finish(state), memory=memory, num_attackers=None)


def _finish_gathered(state: Gathered, memory: Memory, rng: np.random.Generator, *, config: AggregationConfig) -> Aggregate:
    if not len(state):
        raise ValueError("no client was added")
    assumed = config.assumed_attackers(len(state))
    f = assumed or 0
    updates = nnm.mix(state, f=f) if config.pre == "nnm" else state
    given = Given(updates, f, memory, rng)
    remembering = remembering_rules(config)
    if config.rule in remembering:
        delta, memory = remembering[config.rule](given)
    else:
        delta = forgetful_rules(config)[config.rule](given)
    return Aggregate(delta=delta, memory=memory, num_attackers=assumed)
