"""probe/splits.py: no client, and where there are several no family, is ever on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.samples import Samples
from probe.splits import folds, hold_out
from tests.unit.probe.builders import make_samples

Layout = tuple[dict[str, int], dict[str, int]]
"""Number of clients of each benign and of each malicious family."""


def table(layout: Layout) -> Samples:
    """Three rows per client."""
    rows = [
        (label, f"{label}-{family}-{index}", family)
        for label, families in enumerate(layout)
        for family, number in families.items()
        for index in range(number)
        for _ in range(3)
    ]
    return make_samples(*zip(*rows, strict=True))


def held_clients(layout: Layout, share: float, seed: int = 0) -> tuple[set[str], set[str]]:
    """The benign and the malicious clients that are held out."""
    samples = table(layout)
    mask = hold_out(samples, share, seed)
    benign, malicious = (set(samples.clients[mask & (samples.labels == label)].tolist()) for label in (0, 1))
    return benign, malicious


FAMILIES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 6), min_size=1, max_size=5).filter(
    lambda families: sum(families.values()) >= 2
)


def check_sides(samples: Samples, mask: np.ndarray, layout: Layout) -> None:
    """No client is on both sides, no family where each class has several, and both sides have both classes."""
    for label in (0, 1):
        own = samples.labels == label
        assert (mask & own).any()
        assert (~mask & own).any()
    assert not set(samples.clients[mask]) & set(samples.clients[~mask])
    if min(map(len, layout)) > 1:
        assert not set(samples.families[mask]) & set(samples.families[~mask])


@settings(max_examples=100, deadline=None)
@given(st.tuples(FAMILIES, FAMILIES), st.floats(0.01, 0.99), st.integers(0, 100))
def test_no_client_or_family_is_on_both_sides_and_both_sides_have_both_classes(layout, share, seed):
    samples = table(layout)
    mask = hold_out(samples, share, seed)
    assert mask.dtype == bool
    check_sides(samples, mask, layout)
    for label in (0, 1):
        own = samples.labels == label
        if len(layout[label]) > 1:
            assert not set(samples.families[mask & own]) & set(samples.families[~mask & own])


@settings(max_examples=20, deadline=None)
@given(st.tuples(FAMILIES, FAMILIES), st.integers(0, 100), st.integers(0, 100))
def test_the_split_does_not_depend_on_the_order_of_rows(layout, seed, order_seed):
    samples = table(layout)
    order = np.random.default_rng(order_seed).permutation(len(samples))
    np.testing.assert_array_equal(hold_out(samples.take(order), 0.3, seed), hold_out(samples, 0.3, seed)[order])


@pytest.mark.parametrize(("share", "number"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_a_class_of_one_family_gives_the_share_of_its_clients(share, number):
    benign, malicious = held_clients(({"a": 8}, {"b": 8}), share)
    assert len(benign) == len(malicious) == number


def test_families_of_equal_size_give_the_share():
    # 16 clients each: 0.25 is 4 clients, so two benign families of 2 and one malicious family of 4.
    benign, malicious = held_clients(({f"b{i}": 2 for i in range(8)}, {f"m{i}": 4 for i in range(4)}), 0.25)
    assert len({client.split("-")[1] for client in benign}) == 2
    assert len({client.split("-")[1] for client in malicious}) == 1
    assert (len(benign), len(malicious)) == (4, 4)


@pytest.mark.parametrize("seed", range(10))
def test_a_large_family_is_not_held_out_for_a_small_share(seed):
    # A share of 0.1 is 10 clients. Family a brings 1 of them; with b, 99 or 100 clients would be held out.
    benign, _ = held_clients(({"a": 1, "b": 99}, {"m": 4}), 0.1, seed)
    assert benign == {"0-a-0"}


@pytest.mark.parametrize("seed", range(10))
def test_the_smallest_family_is_held_out_where_all_are_too_large(seed):
    # A share of 0.1 is 3 clients; 9 and more are further from it than none.
    benign, _ = held_clients(({"a": 12, "b": 9, "c": 10}, {"m": 4}), 0.1, seed)
    assert benign == {f"0-b-{index}" for index in range(9)}


@pytest.mark.parametrize("seed", range(10))
def test_a_family_that_both_classes_use_lies_on_one_side(seed):
    # Held out: a of both classes, or b and c. Never a and another, which would leave a class nothing.
    benign, malicious = held_clients(({"a": 3, "b": 3}, {"a": 3, "c": 3}), 0.25, seed)
    sides = {client.split("-")[1] for client in benign | malicious}
    assert sides in ({"a"}, {"b", "c"})
    assert (len(benign), len(malicious)) == (3, 3)


@pytest.mark.parametrize("seed", range(10))
def test_the_only_family_of_one_class_is_not_held_out_by_the_other(seed):
    benign, malicious = held_clients(({"a": 4, "b": 4}, {"a": 4}), 0.5, seed)
    assert benign == {f"0-b-{index}" for index in range(4)}
    assert len(malicious) == 2


def test_the_seed_alone_decides():
    layout = ({"a": 8}, {f"m{i}": 2 for i in range(6)})
    splits = [held_clients(layout, 0.3, seed) for seed in range(10)]
    assert splits == [held_clients(layout, 0.3, seed) for seed in range(10)]
    assert len({(frozenset(benign), frozenset(malicious)) for benign, malicious in splits}) > 5


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    held_clients(({"a": 8}, {"b": 8}), 0.3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (({"a": 1}, {"b": 4}), "at least 2 benign clients, got 1"),
        (({"a": 4}, {"b": 1}), "at least 2 malicious clients, got 1"),
        (({"a": 4}, {}), "at least 2 malicious clients, got 0"),
        (({}, {"a": 4}), "at least 2 benign clients, got 0"),
    ],
)
def test_fewer_than_two_clients_of_a_class_are_an_error(layout, message):
    with pytest.raises(ValueError, match=message):
        hold_out(table(layout), 0.5, 0)
    with pytest.raises(ValueError, match=message):
        folds(table(layout), 4, 0)


# Folds


@settings(max_examples=100, deadline=None)
@given(st.tuples(FAMILIES, FAMILIES), st.integers(2, 5), st.integers(0, 100))
def test_every_row_is_in_one_fold_and_no_client_or_family_is_in_two(layout, number, seed):
    samples = table(layout)
    masks = folds(samples, number, seed)
    assert 1 <= len(masks) <= number
    if len(masks) > 1:
        assert (np.sum(masks, axis=0) == 1).all()
    for mask in masks:
        check_sides(samples, mask, layout)


@pytest.mark.parametrize("seed", range(5))
def test_folds_hold_equally_many_clients_of_each_class(seed):
    # Four malicious families of 4 clients; four groups of benign tasks of 3, and a benign client of each malicious family.
    samples = table(({**dict.fromkeys("wxyz", 3), **dict.fromkeys("abcd", 1)}, dict.fromkeys("abcd", 4)))
    masks = folds(samples, 4, seed)
    assert [samples.take(mask).num_clients for mask in masks] == [{"benign": 4, "malicious": 4}] * 4


def test_too_few_families_give_fewer_folds():
    assert len(folds(table(({"a": 4, "b": 4, "c": 4}, {"x": 4, "y": 4})), 4, 0)) == 2


def test_a_class_of_one_family_is_dealt_by_client():
    samples = table(({"a": 3, "b": 3, "c": 3}, {"x": 6}))
    assert [samples.take(mask).num_clients["malicious"] for mask in folds(samples, 3, 0)] == [2, 2, 2]
