"""defense/rules/lasa.py: sparsified updates, filtered tensor by tensor by norm and by signs."""

import numpy as np
import pytest
import torch

from defense.rules import round_updates
from defense.rules.lasa import near_median, sign_purity
from tests.unit.defense.rules.builders import draw, result


def naive(rows, masses, sparsity, norm_radius, sign_radius) -> np.ndarray:
    """`a` is all but the last column, `b` the last one."""
    lengths = np.linalg.norm(rows, axis=1)
    kept = []
    for row, length in zip(rows, lengths, strict=True):
        dropped = np.argsort(np.abs(row))[: int(sparsity * len(row))]
        sparse = row * min(1, np.median(lengths) / length)
        sparse[dropped] = 0
        kept.append(sparse)
    result = []
    for part in (np.array(kept)[:, :-1], np.array(kept)[:, -1:]):
        figures = []
        for row in part:
            signs = np.sign(row)
            purity = (1 + signs.sum() / np.abs(signs).sum()) / 2 if signs.any() else 0.5
            figures.append((np.linalg.norm(row), purity))
        norm, purity = np.array(figures).T
        inside = np.abs(norm - np.median(norm)) <= norm_radius * norm.std()
        inside &= np.abs(purity - np.median(purity)) <= sign_radius * purity.std()
        weights = masses * inside if inside.any() else masses
        result.append(weights @ part / weights.sum())
    return np.concatenate(result)


def test_purity_is_the_share_of_positive_among_nonzero_values():
    assert sign_purity(torch.tensor([3, 0, 0, 2]), torch.tensor([1, 5, 0, 0])).tolist() == [0.75, 0, 0.5, 1]


def test_figures_within_a_radius_of_the_median_pass():
    # 1 2 3 8 1 have the median 2, the mean 3 and the variance 34/5 over N.
    figures = torch.tensor([1.0, 2, 3, 8, 1], dtype=torch.float64)
    assert near_median(figures, 1).tolist() == [True, True, True, False, True]
    assert near_median(figures, 2.4).tolist() == [True] * 5
    assert near_median(torch.ones(3, dtype=torch.float64), 1).all()


def test_two_clients_both_count():
    # Each is one standard deviation from their median exactly: rounding must not decide.
    assert all(near_median(pair, 1).all() for pair in torch.from_numpy(np.random.default_rng(0).random((200, 2))))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [(0.3, 1, 1), (0, 0.5, 2), (0.9, 1, 1)])
def test_a_naive_implementation_agrees(monkeypatch, seed, settings):
    drawn = draw(seed, num_values=21)
    sparsity, norm_radius, sign_radius = settings
    expected = naive(drawn.rows, drawn.masses, *settings)
    for block_values in (10**6, 50):
        monkeypatch.setattr(round_updates, "_BLOCK_VALUES", block_values)
        found = drawn.result("lasa", sparsity=sparsity, norm_radius=norm_radius, sign_radius=sign_radius)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)


def test_the_smallest_values_of_an_update_are_dropped():
    # 3 of 10 values: 0.1, -0.2 and 0.3. All clients are the same, so all pass.
    row = [0.1, 1, -0.2, 2, 0.3, -3, 4, 5, -6, 7]
    np.testing.assert_allclose(result("lasa", [row] * 3), [0, 1, 0, 2, 0, -3, 4, 5, -6, 7], rtol=1e-14)


def test_a_client_can_pass_in_one_tensor_and_not_in_another():
    # In `a` all agree; in `b` the last client has the other sign and is left out.
    rows = [[1, 1, 1, 1]] * 4 + [[1, 1, 1, -1]]
    np.testing.assert_allclose(result("lasa", rows, sparsity=0), [1, 1, 1, 1], rtol=1e-14)


def test_when_no_client_passes_all_count():
    # Two clients: the median of their norms lies 1 deviation from both, so with a smaller radius none passes.
    found = result("lasa", [[3, 4, 0], [0, 5, 0]], sparsity=0, sign_radius=0.5)
    np.testing.assert_allclose(found, [1.5, 4.5, 0], rtol=1e-14)


def test_updates_of_zeros_move_nothing():
    assert result("lasa", [[0, 0]] * 3).tolist() == [0, 0]
