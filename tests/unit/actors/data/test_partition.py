"""Splitting one data set over clients: every row goes to exactly one client, and no client is left empty."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark, raises

from actors.config import PartitionConfig
from actors.data.partition import split_rows
from actors.errors import DataError

IID = PartitionConfig(by="iid")
TOPICS = [f"topic-{row % 6}" for row in range(240)]


def make_config(by: str, alpha: float = 0.5) -> PartitionConfig:
    return PartitionConfig(by=by, column="topic", alpha=alpha)


def split(by: str, num_clients: int, seed: int = 0, alpha: float = 0.5) -> list[list[int]]:
    parts = split_rows(len(TOPICS), num_clients, make_config(by, alpha), TOPICS, np.random.default_rng(seed))
    return [part.tolist() for part in parts]


def assert_partition(parts: list, num_rows: int, num_clients: int) -> None:
    assert len(parts) == num_clients
    assert all(len(part) > 0 for part in parts)
    assert sorted(row for part in parts for row in part) == list(range(num_rows))


def skew(parts: list[list[int]]) -> float:
    """Mean over clients of the largest share that one topic has in a client's rows: 1/6 is even, 1 is one topic only."""
    return float(np.mean([np.bincount([row % 6 for row in part]).max() / len(part) for part in parts]))


@mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_every_row_goes_to_exactly_one_client(by):
    assert_partition(split(by, 5), len(TOPICS), 5)


@mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_rows_keep_their_order_within_a_client(by):
    assert all(part == sorted(part) for part in split(by, 5))


@mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_equal_seeds_split_alike(by):
    assert split(by, 5, seed=3) == split(by, 5, seed=3)


@mark.parametrize("by", ["iid", "dirichlet"])
def test_other_seeds_split_otherwise(by):
    assert len({str(split(by, 5, seed=seed)) for seed in range(5)}) == 5


def test_iid_parts_differ_by_one_row_at_most():
    parts = split_rows(11, 4, IID, None, np.random.default_rng(0))
    assert sorted(map(len, parts)) == [2, 3, 3, 3]


def test_iid_mixes_the_rows():
    parts = split_rows(100, 2, IID, None, np.random.default_rng(0))
    assert parts[0].tolist() != list(range(50))
    assert 10 < sum(row < 50 for row in parts[0]) < 40


def test_one_client_gets_everything():
    for by in ("iid", "dirichlet", "column"):
        assert split(by, 1) == [list(range(len(TOPICS)))]


def test_column_deals_the_values_in_sorted_order():
    values = ["c", "a", "b", "a", "d", "e", "c"]
    parts = split_rows(7, 2, make_config("column"), values, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [[0, 1, 3, 5, 6], [2, 4]], "client 0 holds a, c and e; client 1 b and d"


def test_column_values_may_be_numbers_or_missing():
    parts = split_rows(5, 3, make_config("column"), [1, None, 2, 1, None], np.random.default_rng(0))
    assert sorted(part.tolist() for part in parts) == [[0, 3], [1, 4], [2]]


def test_small_alpha_skews_clients_more_than_large_alpha():
    small, middle, large = (np.mean([skew(split("dirichlet", 4, seed, alpha)) for seed in range(8)]) for alpha in (0.1, 1, 100))
    assert small > middle + 0.15 > large + 0.3
    assert large < 0.25


def test_dirichlet_leaves_no_client_empty_where_a_first_draw_would():
    for seed in range(30):
        assert_partition(split("dirichlet", 8, seed, alpha=0.2), len(TOPICS), 8)


@mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_fewer_rows_than_clients_is_an_error(by):
    with raises(DataError, match=r"3 rows cannot be split over clients\.count=4"):
        split_rows(3, 4, make_config(by), ["a", "b", "c"], np.random.default_rng(0))


def test_fewer_values_than_clients_is_an_error_that_names_the_column():
    with raises(DataError, match=r"column topic has 6 values.*clients\.count=7"):
        split("column", 7)


def test_an_alpha_too_small_for_the_clients_is_an_error_that_names_it():
    with raises(DataError, match=r"data\.partition\.alpha=0\.001 leaves clients without rows"):
        split_rows(20, 20, make_config("dirichlet", 0.001), ["a"] * 20, np.random.default_rng(0))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data(), by=st.sampled_from(["iid", "dirichlet", "column"]), seed=st.integers(0, 2**32))
def test_a_split_is_a_partition_or_a_data_error(data, by, seed):
    values = data.draw(st.lists(st.sampled_from(["a", "b", "c", "ä", "", 1, "1", None]), min_size=1, max_size=40), label="values")
    num_clients = data.draw(st.integers(1, 8), label="clients")
    alpha = data.draw(st.floats(0.01, 1000), label="alpha")
    enough = len(values) >= num_clients and (by != "column" or len(set(map(str, values))) >= num_clients)
    try:
        parts = split_rows(len(values), num_clients, make_config(by, alpha), values, np.random.default_rng(seed))
    except DataError:
        assert not enough or by == "dirichlet"
        return
    assert enough
    assert_partition(parts, len(values), num_clients)
    if by == "column":
        owners = {(str(values[row]), client) for client, part in enumerate(parts) for row in part}
        assert len(owners) == len(set(map(str, values))), "a value has one client"
