"""Aggregation rules over the weighted, admitted updates.

Every rule is three pure functions: `init() -> state`, `add(state, delta, num_samples, weight) -> state`, called in
order of client id, and `finish(state) -> delta`, the pseudo-gradient by which the global adapter moves. A client of
weight 0 is never added, so its update cannot touch the result.
"""

from __future__ import annotations

from defense.config import RuleName
from defense.rules import fedavg
from defense.rules.rule import Rule

RULES: dict[RuleName, Rule] = {
    "fedavg": Rule(init=fedavg.init, add=fedavg.add, finish=fedavg.finish),
}
