"""Which families a client has: shares by hand, the Dirichlet's moments, and that newcomers change nothing for the others."""

from collections import Counter

import numpy as np
import pytest

from actors.config import PartitionConfig
from actors.seeding import stream
from actors.world.generator import World, draw
from actors.world.mixtures import Mixture, deal_mixtures

CLIENTS = [f"client-{i:03d}" for i in range(12)]


def deal(world: World, by: str, clients=CLIENTS, seed: int = 0, alpha: float = 0.5, refusals=None) -> dict[str, Mixture]:
    return deal_mixtures(world, clients, PartitionConfig(by=by, alpha=alpha), seed, refusals or {})


def count_families(world: World, mixture: Mixture, count: int) -> Counter:
    return Counter(example.family for example in mixture.rows(world, count, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("shares", "count", "expected"),
    [
        ((0.5, 0.3, 0.2), 4, (2, 1, 1)),  # the sums 0.5, 0.8 and 1 of 4 rows are 2, 3.2 and 4
        ((0.5, 0.3, 0.2), 10, (5, 3, 2)),
        ((0.1, 0.0, 0.9), 3, (0, 0, 3)),
        ((0.15, 0.15, 0.7), 4, (1, 0, 3)),
    ],
)
def test_shares_become_rows(world, shares, count, expected):
    families = world.roles["federation"].benign[:3]
    found = count_families(world, Mixture(families=families, shares=shares), count)
    assert tuple(found[family] for family in families) == expected


def test_equal_shares_are_drawn_as_an_even_draw_is_to_the_row(world):
    families = world.roles["federation"].benign
    rows = Mixture(families=families).rows(world, 25, np.random.default_rng(5))
    assert rows == draw(world.benign_example, families, 25, np.random.default_rng(5))


def test_refused_requests_take_the_place_of_benign_rows(world):
    restricted = world.roles["federation"].restricted
    mixture = Mixture(families=world.roles["federation"].benign[:1], refusals=0.2)
    rows = mixture.rows(world, 60, np.random.default_rng(0))
    refused = [row for row in rows if row.family in restricted]
    assert (len(rows), len(refused)) == (60, 12)
    assert Counter(row.family for row in refused) == dict.fromkeys(restricted, 2)
    assert {row.response for row in refused} <= set(world.language.refusals)
    only = Mixture(families=mixture.families, refusals=1.0).rows(world, 6, np.random.default_rng(0))
    assert {row.family for row in only} == set(restricted)


def test_iid_gives_every_client_every_family_evenly(world):
    assert set(deal(world, "iid").values()) == {Mixture(families=world.roles["federation"].benign)}


def test_by_column_families_go_round(world):
    families = world.roles["federation"].benign
    dealt = [mixture.families for mixture in deal(world, "column").values()]
    assert {len(own) for own in dealt} == {1}
    assert sorted(family for (family,) in dealt[: len(families)]) == sorted(families)
    assert dealt[len(families) :] == dealt[: len(CLIENTS) - len(families)]


def test_dirichlet_shares_have_the_moments_of_the_distribution(world):
    """Of a symmetric Dirichlet over k: mean 1/k, variance (1/k)(1 - 1/k) / (k alpha + 1)."""
    num_families = len(world.roles["federation"].benign)
    dealt = deal(world, "dirichlet", [f"c{i}" for i in range(3000)], alpha=0.3)
    shares = np.array([mixture.shares for mixture in dealt.values()])
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares.mean(axis=0) == pytest.approx(np.full(num_families, 1 / num_families), abs=0.012)
    variance = (1 / num_families) * (1 - 1 / num_families) / (num_families * 0.3 + 1)
    assert shares.var(axis=0).mean() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("by", ["dirichlet", "column"])
def test_run_and_world_each_change_the_deal(world, by):
    assert deal(world, by) == deal(World(0), by)
    assert deal(world, by, seed=1) != deal(world, by)
    assert deal(World(1), by) != deal(world, by)


@pytest.mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_clients_that_join_later_change_nothing_for_the_others(world, by):
    all_of_them = deal(world, by)
    assert deal(world, by, CLIENTS[:10]) == {name: all_of_them[name] for name in CLIENTS[:10]}


def test_shares_do_not_come_from_the_stream_that_the_rows_come_from(world):
    (mixture,) = deal(world, "dirichlet", ["a"]).values()
    rows_stream = stream(0, "world data", world.seed, "a").dirichlet([0.5] * len(mixture.families))
    assert mixture.shares != tuple(rows_stream)


def test_refusals_go_to_the_client_they_are_for(world):
    dealt = deal(world, "column", refusals={CLIENTS[1]: 0.25})
    assert [mixture.refusals for mixture in dealt.values()] == [0, 0.25, *[0] * 10]
