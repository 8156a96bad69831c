"""defense/rules/round_updates.py: updates side by side in order of client id, read in blocks."""

import numpy as np
import pytest
import torch

from defense.rules import round_updates
from defense.rules.round_updates import RoundUpdates
from tests.unit.defense.rules.builders import collected, draw, flat, updates_of


def test_updates_lie_in_order_of_client_id_and_adding_changes_no_earlier_state():
    first, second, third = updates_of([[1, 1], [2, 2], [3, 3]])
    before = RoundUpdates().add(second).add(third)
    assert before.add(first).rows_NW("b").tolist() == [[1], [2], [3]]
    assert [update.client_id for update in before.updates] == ["c01", "c02"]


def test_a_client_counts_once():
    (update,) = updates_of([[1, 2]])
    with pytest.raises(ValueError, match="c00 was added twice"):
        RoundUpdates().add(update).add(update)


def test_deltas_are_kept_in_float32_and_read_in_float64():
    updates = collected([[0.1, 1e-3]])
    assert {tensor.dtype for tensor in updates.updates[0].delta.values()} == {torch.float32}
    assert updates.rows_NW("a").dtype == torch.float64
    assert updates.rows_NW("a").item() == np.float32(0.1)


@pytest.mark.parametrize("block_values", [1, 7, 24, 10**6])
def test_blocks_are_the_tensors(monkeypatch, block_values):
    monkeypatch.setattr(round_updates, "_BLOCK_VALUES", block_values)
    monkeypatch.setattr(round_updates, "_LEAST_WIDTH", 1)
    drawn = draw(0, num_clients=3, num_values=11)
    blocks = [rows.clone() for _, _, rows in drawn.collected.blocks()]
    assert all(rows.numel() <= max(3, block_values) for rows in blocks)
    np.testing.assert_array_equal(torch.cat(blocks, dim=1).numpy(), drawn.rows)


def test_combine_is_the_linear_combination():
    drawn = draw(2, num_clients=4)
    coefficients = torch.tensor([0.5, -2.0, 0.0, 1.25], dtype=torch.float64)
    np.testing.assert_allclose(flat(drawn.collected.combine(coefficients)), coefficients.numpy() @ drawn.rows, rtol=1e-13)
    np.testing.assert_array_equal(flat(drawn.collected.row(1)), drawn.rows[1])


def test_means_are_weighted():
    # Masses 10 x 1, 10 x 0.5, 20 x 1: (10 x 1 + 5 x 2 + 20 x 4) / 35; of the last two: (5 x 2 + 20 x 4) / 25.
    updates = collected([[1, 1], [2, 2], [4, 4]], [10, 10, 20], [1, 0.5, 1])
    np.testing.assert_allclose(flat(updates.mean()), [100 / 35] * 2, rtol=1e-15)
    np.testing.assert_allclose(flat(updates.mean_of([1, 2])), [90 / 25] * 2, rtol=1e-15)


def test_the_mean_of_one_is_that_one_to_the_bit():
    drawn = draw(3)
    np.testing.assert_array_equal(flat(drawn.collected.mean_of([4])), drawn.rows[4])


def test_by_coordinate_keeps_names_and_shapes():
    highest = collected([[1, 2, 3, 7], [5, 6, 7, 9]]).by_coordinate(lambda rows: rows.max(0).values)
    assert {name: tensor.tolist() for name, tensor in highest.items()} == {"a": [[5, 6, 7]], "b": [9]}


def test_by_coordinate_gives_the_values_as_they_are_kept_and_mixtures_in_float64():
    plain, dtypes = collected([[1, 2], [3, 4]]), []
    for updates in (plain, RoundUpdates(plain.updates, torch.eye(2, dtype=torch.float64))):
        updates.by_coordinate(lambda rows: dtypes.append(rows.dtype) or rows[0])
    assert dtypes == [torch.float32] * 2 + [torch.float64] * 2


def test_mixing_makes_rows_combinations_of_the_deltas():
    drawn = draw(4, num_clients=3)
    mixing = torch.tensor([[0.5, 0.5, 0], [0, 1, 0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    mixed = RoundUpdates(drawn.collected.updates, mixing)
    expected = mixing.numpy() @ drawn.rows
    np.testing.assert_allclose(mixed.rows_NW("a").numpy(), expected[:, :-1], rtol=1e-13)
    np.testing.assert_allclose(flat(mixed.row(2)), expected[2], rtol=1e-13)
    np.testing.assert_allclose(flat(mixed.mean()), np.average(expected, axis=0, weights=drawn.masses), rtol=1e-12)
