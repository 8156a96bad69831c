"""Splitting one data set over clients: every row goes to exactly one client, and no client is left empty."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark, raises

from actors.config import PartitionConfig
from actors.data.partition import split_rows
from actors.errors import DataError

TOPICS = [f"topic-{row % 6}" for row in range(240)]
EACH = mark.parametrize("by", ["iid", "dirichlet", "column"])


def make_config(by: str, alpha: float = 0.5) -> PartitionConfig:
    return PartitionConfig(by=by, column="topic", alpha=alpha)


def split(by: str, num_clients: int, seed: int = 0, alpha: float = 0.5, values=TOPICS) -> list[list[int]]:
    parts = split_rows(len(values), num_clients, make_config(by, alpha), values, np.random.default_rng(seed))
    return [part.tolist() for part in parts]


def assert_partition(parts: list, num_rows: int, num_clients: int) -> None:
    """Every row goes to one client, in ascending order, and no client is empty."""
    assert len(parts) == num_clients
    assert all(len(part) > 0 and list(part) == sorted(part) for part in parts)
    assert sorted(row for part in parts for row in part) == list(range(num_rows))


@EACH
def test_a_split_follows_the_seed(by):
    assert split(by, 5, seed=3) == split(by, 5, seed=3)
    assert len({str(split(by, 5, seed=seed)) for seed in range(5)}) == (1 if by == "column" else 5)
    assert split(by, 1) == [list(range(len(TOPICS)))]


def test_iid_parts_are_mixed_and_differ_by_one_row_at_most():
    parts = split_rows(103, 4, PartitionConfig(by="iid"), None, np.random.default_rng(0))
    assert sorted(map(len, parts)) == [25, 26, 26, 26]
    assert all(5 < sum(row < 51 for row in part) < 20 for part in parts)


@mark.parametrize(
    ("values", "parts"),
    [
        (["c", "a", "b", "a", "d", "e", "c"], [[0, 1, 3, 5, 6], [2, 4]]),  # client 0 holds a, c and e; client 1 b and d
        ([1, None, 2, 1, None], [[0, 1, 3, 4], [2]]),  # values are compared as text: client 0 holds 1 and None
    ],
)
def test_column_deals_the_values_in_sorted_order(values, parts):
    assert split("column", 2, values=values) == parts


def test_small_alpha_skews_clients_more_than_large_alpha():
    def skew(alpha: float, seed: int) -> float:
        """Mean over clients of the largest share of one topic: 1/6 is even, 1 is one topic only."""
        return np.mean([np.bincount([row % 6 for row in part]).max() / len(part) for part in split("dirichlet", 4, seed, alpha)])

    small, middle, large = (np.mean([skew(alpha, seed) for seed in range(8)]) for alpha in (0.1, 1, 100))
    assert small > middle + 0.15 > large + 0.3
    assert large < 0.25


def test_dirichlet_leaves_no_client_empty_where_a_first_draw_would():
    for seed in range(30):
        assert_partition(split("dirichlet", 8, seed, alpha=0.2), len(TOPICS), 8)


@mark.parametrize(
    ("by", "num_clients", "alpha", "values", "complaint"),
    [
        *((by, 4, 0.5, list("abc"), r"3 rows cannot be split over clients\.count=4") for by in ("iid", "dirichlet", "column")),
        ("column", 7, 0.5, TOPICS, r"column topic has 6 values.*clients\.count=7"),
        ("dirichlet", 20, 0.001, ["a"] * 20, r"data\.partition\.alpha=0\.001 leaves clients without rows"),
    ],
)
def test_a_split_that_is_impossible_is_an_error_that_names_the_setting(by, num_clients, alpha, values, complaint):
    with raises(DataError, match=complaint):
        split(by, num_clients, alpha=alpha, values=values)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data(), by=st.sampled_from(["iid", "dirichlet", "column"]), seed=st.integers(0, 2**32))
def test_a_split_is_a_partition_or_a_data_error(data, by, seed):
    values = data.draw(st.lists(st.sampled_from(["a", "b", "c", "ä", "", 1, "1", None]), min_size=1, max_size=40), label="values")
    num_clients = data.draw(st.integers(1, 8), label="clients")
    alpha = data.draw(st.floats(0.01, 1000), label="alpha")
    enough = len(values) >= num_clients and (by != "column" or len(set(map(str, values))) >= num_clients)
    try:
        parts = split(by, num_clients, seed, alpha, values)
    except DataError:
        assert not enough or by == "dirichlet"
        return
    assert enough
    assert_partition(parts, len(values), num_clients)
    if by == "column":
        owners = {(str(values[row]), client) for client, part in enumerate(parts) for row in part}
        assert len(owners) == len(set(map(str, values))), "a value has one client"
