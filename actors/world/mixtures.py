"""What a client's rows are drawn from: `data.partition` in the embedded world, which has no data set to split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actors.config import PartitionConfig
from actors.data.records import Example
from actors.seeding import stream
from actors.world.generator import World, draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which families one client's rows are of."""

    families: Sequence[str]
    """Benign families."""
    shares: Sequence[float] | None = None
    """Share of the benign rows that each family has, summing to 1; None: all have the same."""
    refusals: float = 0.0
    """Share of all rows that are restricted prompts with refusals."""

    def rows(self, world: World, count: int, rng: np.random.Generator) -> list[Example]:
        """`count` rows: benign ones, then refused requests spread evenly over the federation's restricted families."""
        num_refused = round(self.refusals * count)
        benign = draw(world.benign_example, self._spread(count - num_refused), count - num_refused, rng)
        return benign + draw(world.refused_example, world.roles["federation"].restricted, num_refused, rng)

    def _spread(self, count: int) -> Sequence[str]:
        """Families from which an even draw of `count` rows takes the shares: each stands there once per row that it gets.

        Example: shares of 0.5, 0.3 and 0.2 are 2, 1 and 1 of 4 rows. Their sums 0.5, 0.8 and 1 are rounded, so no row is lost.
        """
        if self.shares is None:
            return self.families
        ends = np.round(np.cumsum(self.shares) * count).astype(int)
        return np.repeat(self.families, np.diff(ends, prepend=0)).tolist()


def deal_mixtures(
    world: World, clients: Sequence[str], partition: PartitionConfig, seed: int, refusals: Mapping[str, float]
) -> dict[str, Mixture]:
    """Client id -> what its rows are drawn from.

    `iid`: all families evenly. `dirichlet`: each client has shares from a symmetric Dirichlet, `alpha` for each family. Hsu, Qi
    and Brown (2019, arXiv 1909.06335, section 3) draw a client's shares like this; their alpha is ours times the number of
    families. `column`: one family per client, in turn through a seeded order; with more clients than families some share one.

    Args:
        clients: All clients that ever joined, in order of joining; clients that join later change nothing for the others.
        seed: The run's.
        refusals: Client id -> share of its rows that are refused requests; absent: none.
    """
    families = world.roles["federation"].benign
    order = stream(seed, "family order", world.seed).permutation(len(families))
    return {
        client_id: Mixture(
            families=(families[order[number % len(families)]],) if partition.by == "column" else families,
            shares=_draw_shares(world, client_id, partition.alpha, seed) if partition.by == "dirichlet" else None,
            refusals=refusals.get(client_id, 0.0),
        )
        for number, client_id in enumerate(clients)
    }


def _draw_shares(world: World, client_id: str, alpha: float, seed: int) -> Sequence[float]:
    rng = stream(seed, "family shares", world.seed, client_id)
    return tuple(rng.dirichlet([alpha] * len(world.roles["federation"].benign)).tolist())
