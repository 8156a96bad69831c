"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from actors.seeding import stream
from cluster.config.schema import RunConfig


def draw_clients(config: RunConfig, names: Sequence[str], round_index: int, excluded: Collection[str]) -> list[str]:
    """Clients of a round in the order in which they are drawn: all that take part, or a seeded `clients.per_round` of them.

    Args:
        names: The clients that take part.
        excluded: Clients that an experiment leaves out of every round. The others are those that the round would have otherwise.
            It may be left with none, and is then a round without a quorum.
    """
    rng = stream(config.seed, "sampled clients", round_index)
    drawn = [names[int(i)] for i in rng.permutation(len(names))[: config.clients.per_round]]
    return [name for name in drawn if name not in excluded]
