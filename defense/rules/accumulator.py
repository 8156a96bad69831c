"""From a round's weighted updates, taken in one by one, to their aggregate: FedAvg streams, every other rule collects them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol

import numpy as np
import torch

from defense.averaging import svd
from defense.rules import RULES
from defense.rules.config import AggregationConfig
from defense.rules.fedavg import WeightedSum
from defense.rules.round_updates import Aggregate, RoundUpdates, WeightedUpdate
from defense.tensors import Tensors

RuleFunction = Callable[..., dict[str, torch.Tensor] | tuple[dict[str, torch.Tensor], Tensors]]
"""A rule: from updates to the pseudo-gradient, with the new memory of a rule that remembers."""


class Accumulator(Protocol):
    """A round's aggregation in progress."""

    def add(self, update: WeightedUpdate, /) -> None:
        """Take in one more client."""
        ...

    def finish(self, adapter: Tensors, memory: Tensors, rng: np.random.Generator, /) -> Aggregate:
        """The aggregate of what was added; changes nothing.

        Args:
            adapter: The global adapter that the updates are deltas of.
            memory: What the rule remembered in the last aggregated round; empty at first.
            rng: The round's, for rules that draw at random.

        Raises:
            ValueError: nothing was added.
        """
        ...


@dataclass(slots=True)
class Collected:
    """All updates of the round, for a rule that needs them at once, or for the averaging of products."""

    config: AggregationConfig
    updates: RoundUpdates = field(default_factory=RoundUpdates)

    def add(self, update: WeightedUpdate, /) -> None:
        self.updates = self.updates.add(update)

    def finish(self, adapter: Tensors, memory: Tensors, rng: np.random.Generator, /) -> Aggregate:
        if not self.updates:
            raise ValueError("no client was added")
        if self.config.averaging == "svd":
            return svd.aggregate(self.updates, adapter)
        f = self.config.assumed_attackers(len(self.updates))
        updates = self.updates
        if self.config.pre != "none":
            updates = import_module(f"defense.rules.{self.config.pre}").mix(updates, f=f)
        rule, name = RULES[self.config.rule], self.config.rule
        given = {
            "f": f if rule.assumes_attackers else None,
            "memory": memory if rule.remembers else None,
            "rng": rng if rule.draws else None,
            "settings": getattr(self.config, name, None),
        }
        aggregate: RuleFunction = import_module(f"defense.rules.{name}").aggregate
        found = aggregate(updates, **{key: value for key, value in given.items() if value is not None})
        delta, memory = found if isinstance(found, tuple) else (found, memory)
        return Aggregate(delta=delta, memory=memory, num_attackers=f)


def make_accumulator(config: AggregationConfig) -> Accumulator:
    """A new accumulator for the rule, pre-aggregation and averaging that `config` names."""
    streams = config.rule == "fedavg" and config.pre == "none" and config.averaging != "svd"
    return WeightedSum() if streams else Collected(config)
