"""defense/rules/gather.py: updates side by side in order of client id, read in blocks."""

import numpy as np
import pytest
import torch

from defense.rules import gather
from defense.rules.gather import Gathered, add, by_coordinate, combine, mean, mean_of
from tests.unit.defense.rules.builders import draw, flat, gathered, updates_of


def test_updates_lie_in_order_of_client_id_whenever_they_come():
    first, second, third = updates_of([[1, 1], [2, 2], [3, 3]])
    state = Gathered()
    for update in (second, third, first):
        state = add(state, update)
    assert [update.client_id for update in state.updates] == ["c00", "c01", "c02"]
    assert state.rows_NW("b").tolist() == [[1], [2], [3]]


def test_a_client_counts_once():
    (update,) = updates_of([[1, 2]])
    with pytest.raises(ValueError, match="c00 was added twice"):
        add(add(Gathered(), update), update)


def test_adding_changes_no_earlier_state():
    one, two = updates_of([[1, 2], [3, 4]])
    before = add(Gathered(), one)
    add(before, two)
    assert len(before) == 1


def test_deltas_are_kept_in_float32_and_read_in_float64():
    state = gathered([[0.1, 1e-3]])
    assert {tensor.dtype for tensor in state.updates[0].delta.values()} == {torch.float32}
    assert state.rows_NW("a").dtype == torch.float64
    assert state.rows_NW("a").item() == np.float32(0.1)


@pytest.mark.parametrize("block_values", [1, 7, 24, 10**6])
def test_blocks_are_the_tensors(monkeypatch, block_values):
    monkeypatch.setattr(gather, "_BLOCK_VALUES", block_values)
    drawn = draw(0, num_clients=3, num_values=11)
    blocks = list(drawn.gathered.blocks())
    assert all(rows.numel() <= max(3, block_values) for _, _, rows in blocks)
    np.testing.assert_array_equal(torch.cat([rows for _, _, rows in blocks], dim=1).numpy(), drawn.rows)


def test_a_row_is_one_clients_update():
    drawn = draw(1, num_clients=3)
    np.testing.assert_array_equal(flat(drawn.gathered.row(1)), drawn.rows[1])


def test_combine_is_the_linear_combination():
    drawn = draw(2, num_clients=4)
    coefficients = torch.tensor([0.5, -2.0, 0.0, 1.25], dtype=torch.float64)
    np.testing.assert_allclose(flat(combine(drawn.gathered, coefficients)), coefficients.numpy() @ drawn.rows, rtol=1e-13)


def test_means_are_weighted():
    # Masses 10 x 1, 10 x 0.5, 20 x 1: (10 x 1 + 5 x 2 + 20 x 4) / 35; of the last two: (5 x 2 + 20 x 4) / 25.
    state = gathered([[1, 1], [2, 2], [4, 4]], samples=[10, 10, 20], weights=[1, 0.5, 1])
    np.testing.assert_allclose(flat(mean(state, state.masses_N)), [100 / 35] * 2, rtol=1e-15)
    np.testing.assert_allclose(flat(mean_of(state, [1, 2])), [90 / 25] * 2, rtol=1e-15)


def test_the_mean_of_one_is_that_one_to_the_bit():
    drawn = draw(3)
    np.testing.assert_array_equal(flat(mean_of(drawn.gathered, [4])), drawn.rows[4])


def test_by_coordinate_keeps_names_and_shapes():
    state = gathered([[1, 2, 3, 7], [5, 6, 7, 9]])
    highest = by_coordinate(state, lambda rows: rows.max(0).values)
    assert {name: tensor.tolist() for name, tensor in highest.items()} == {"a": [[5, 6, 7]], "b": [9]}


def test_mixing_makes_rows_combinations_of_the_deltas():
    drawn = draw(4, num_clients=3)
    mixing = torch.tensor([[0.5, 0.5, 0], [0, 1, 0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    mixed = Gathered(drawn.gathered.updates, mixing)
    expected = mixing.numpy() @ drawn.rows
    np.testing.assert_allclose(mixed.rows_NW("a").numpy(), expected[:, :-1], rtol=1e-13)
    np.testing.assert_allclose(flat(mixed.row(2)), expected[2], rtol=1e-13)
    np.testing.assert_allclose(flat(mean(mixed, mixed.masses_N)), np.average(expected, axis=0, weights=drawn.masses), rtol=1e-12)


def test_nothing_gathered_has_no_tensors():
    with pytest.raises(ValueError, match="no client was added"):
        Gathered().names  # noqa: B018
