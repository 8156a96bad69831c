"""defense/rules/order_statistics.py: values of given ranks, the same as by sorting."""

from itertools import product

import numpy as np
import pytest
import torch

from defense.rules import order_statistics
from defense.rules.order_statistics import ranked


@pytest.mark.parametrize("count", range(1, 12))
def test_zeros_and_ones_in_every_arrangement_are_sorted(count):
    # The zero-one principle: a network that sorts these sorts everything (Knuth, The Art of Computer Programming 3, 5.3.4).
    rows = torch.tensor(list(product([0.0, 1.0], repeat=count))).T
    for first, last in {
        (0, count),
        ((count - 1) // 2, count // 2 + 1),
        (0, 1),
        (count - 1, count),
        (count // 4, count - count // 4),
    }:
        np.testing.assert_array_equal(ranked(rows, first, last).numpy(), np.sort(rows.numpy(), axis=0)[first:last])


@pytest.mark.parametrize("count", [20, 33, 100, order_statistics._MOST_ROWS, order_statistics._MOST_ROWS + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_numpys_sort(count, dtype):
    rows = torch.randn(count, 50, generator=torch.Generator().manual_seed(count), dtype=dtype)
    before = rows.clone()
    for first, last in ((count // 2, count // 2 + 1), (3, count - 3)):
        found = ranked(rows, first, last)
        np.testing.assert_array_equal(found.numpy(), np.sort(rows.numpy(), axis=0)[first:last])
        assert found.dtype == dtype
    assert torch.equal(rows, before)


def test_a_median_of_twenty_needs_fewer_comparisons_than_a_sort():
    assert len(order_statistics._network(20, 9, 11)) < len(order_statistics._network(20, 0, 20))


def test_rows_may_be_single_values_or_matrices():
    assert ranked(torch.tensor([3.0, 1.0, 2.0]), 1, 2).tolist() == [2]
    assert ranked(torch.tensor([[[1.0, 5.0]], [[2.0, 4.0]]]), 1, 2).tolist() == [[[2, 5]]]
