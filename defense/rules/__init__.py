"""Aggregation rules over the weighted, admitted updates: one file each, pure, in float64. No torch in this file.

The rule NAME is the function `aggregate` of `defense/rules/NAME.py`. It takes the round's updates, and by keyword only what its
record in `RULES` and its settings say: `f`, `memory`, `rng`, `settings`. It returns the pseudo-gradient by which the global
adapter moves. A rule with settings has a class for them and a field of its own name in `config.py`.

A client of weight 0 is never added, so its update cannot touch the result. Selection and distances are unweighted; every mean
is weighted by n w, median and trimmed mean by w. The result depends on client ids and never on the order of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is known of a rule, or of a pre-aggregation, before it is run."""

    clients_needed: tuple[int, int] = (0, 0)
    """(a, b): with f assumed attackers it needs n >= a f + b clients, and it takes `f`. (0, 0): it assumes no attackers."""
    remembers: Literal["clients", "centre"] | None = None
    """What it remembers from one aggregated round to the next: the clients, as trust does, or where the adapter was heading. It
    then takes `memory` and returns the pair of pseudo-gradient and new memory."""
    draws: bool = False
    """Whether it draws at random; it then takes `rng`."""

    @property
    def assumes_attackers(self) -> bool:
        return self.clients_needed != (0, 0)

    def most_attackers(self, num_clients: int) -> int:
        """The most attackers among so many clients that a rule which assumes some can bear; at least 0."""
        slope, offset = self.clients_needed
        return max(0, (num_clients - offset) // slope)

    def check(self, setting: str, f: int, num_clients: int) -> None:
        """Raises ValueError, which names the setting, when the rule cannot bear f attackers among so many clients."""
        slope, offset = self.clients_needed
        if num_clients < offset:
            raise ValueError(
                f"{setting} needs at least {offset} clients and a round has {num_clients}; "
                "raise clients.per_round or clients.count"
            )
        needed = slope * f + offset
        if num_clients < needed:
            raise ValueError(
                f"{setting} with aggregation.f={f} needs {slope}f + {offset} = {needed} clients and a round has {num_clients}; "
                f"set aggregation.f to at most {self.most_attackers(num_clients)}, or raise clients.per_round or clients.count"
            )


RULES: dict[str, Rule] = {
    "fedavg": Rule(),
    "median": Rule(),
    "trimmed_mean": Rule(clients_needed=(2, 1)),
    "krum": Rule(clients_needed=(2, 3)),
    "multi_krum": Rule(clients_needed=(2, 3)),
    "bulyan": Rule(clients_needed=(4, 3)),
    "geometric_median": Rule(),
    "centered_clipping": Rule(remembers="centre"),
    "foolsgold": Rule(remembers="clients"),
    "dnc": Rule(clients_needed=(2, 1), draws=True),
    "flame": Rule(draws=True),
    "residual": Rule(),
    "lasa": Rule(),
}
"""Value of `aggregation.rule` -> what is known of the rule."""

PRE_AGGREGATIONS: dict[str, Rule] = {"none": Rule(), "nnm": Rule(clients_needed=(2, 1))}
"""Value of `aggregation.pre` -> what is known of it. The pre-aggregation NAME is the function `mix` of its file: from the round's
updates and `f` to mixed updates."""
