"""Attacks that attackers make together: the papers' invariants, on numbers worked by hand and on random rows."""

import math
from statistics import NormalDist

import torch
from pytest import approx, mark

from defense.attacks.alie_distance import largest_z
from defense.attacks.config import AttackConfig
from defense.attacks.updates import PLOTS, collude


def rows(seed: int = 0, count: int = 4, width: int = 9) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plot(name: str, rows_MD: torch.Tensor, num_clients: int = 10, **config) -> torch.Tensor:
    return PLOTS[name](rows_MD, num_clients, AttackConfig(**config))


def farthest(rows_MD: torch.Tensor, point_D: torch.Tensor) -> float:
    return float((rows_MD - point_D).norm(dim=1).max())


def diameter(rows_MD: torch.Tensor) -> float:
    return max(farthest(rows_MD, row_D) for row_D in rows_MD)


def test_alie_is_the_mean_less_z_standard_deviations():
    rows_MD = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)  # mean 2 and 0, standard deviation 1 and 0
    assert plot("alie", rows_MD, alie={"z": 0.5}).tolist() == [1.5, 0.0]


def test_alie_stays_within_z_standard_deviations_in_every_value():
    rows_MD, z = rows(), largest_z(10, 4)
    away_D = (plot("alie", rows_MD) - rows_MD.mean(0)).abs()
    assert bool((away_D <= z * rows_MD.std(0, correction=0) + 1e-12).all())


@mark.parametrize(
    ("num_clients", "num_malicious", "share"),
    [(50, 12, 24 / 38), (10, 3, 4 / 7), (10, 4, 4 / 6)],  # s = floor(n/2 + 1) - m: 14, 3, 2
)
def test_the_largest_z_is_the_papers(num_clients, num_malicious, share):
    assert largest_z(num_clients, num_malicious) == approx(NormalDist().inv_cdf(share))


def test_the_largest_z_of_too_few_is_0_and_that_of_a_majority_is_finite():
    assert largest_z(10, 1) == largest_z(10, 2) == largest_z(50, 2) == 0
    assert largest_z(11, 2) > 0
    assert math.isfinite(largest_z(10, 9))
    assert math.isfinite(largest_z(3, 3))


def test_ipm_points_against_the_mean():
    rows_MD = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    sent = plot("ipm", rows_MD, ipm={"epsilon": 0.5})
    assert sent.tolist() == [-1.0, -0.5]
    assert float(sent @ rows_MD.mean(0)) < 0


@mark.parametrize("perturbation", ["std", "unit", "sign"])
@mark.parametrize("seed", range(4))
def test_min_max_is_as_far_from_the_farthest_as_any_two_are_apart(perturbation, seed):
    rows_MD = rows(seed) + 2
    sent = plot("min_max", rows_MD, min_max={"perturbation": perturbation})
    assert farthest(rows_MD, sent) == approx(diameter(rows_MD))
    assert float((sent - rows_MD.mean(0)) @ rows_MD.mean(0)) < 0


@mark.parametrize("perturbation", ["std", "unit", "sign"])
@mark.parametrize("seed", range(4))
def test_the_squared_distances_of_min_sum_add_up_to_the_largest_sum_of_any_row(perturbation, seed):
    rows_MD = rows(seed) + 2
    sent = plot("min_sum", rows_MD, min_max={"perturbation": perturbation})
    largest = max(float((rows_MD - row_D).square().sum()) for row_D in rows_MD)
    assert float((rows_MD - sent).square().sum()) == approx(largest)
    assert float((sent - rows_MD.mean(0)).norm()) <= float((plot("min_max", rows_MD) - rows_MD.mean(0)).norm()) * 10


def test_min_max_and_min_sum_by_hand():
    # Rows at 0 and 2 on a line: mean 1, standard deviation 1. Two apart: at most distance 2 from the farther, which is at 2;
    # squared distances of a row sum to 4: (x - 0)^2 + (x - 2)^2 = 4 at x = 0 or 2.
    rows_MD = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    assert plot("min_max", rows_MD).tolist() == approx([0.0])
    assert plot("min_sum", rows_MD).tolist() == approx([0.0])


def test_mimic_repeats_the_row_that_stands_out():
    rows_MD = torch.tensor([[0.0, 0.1], [0.2, 0.0], [9.0, 0.0]], dtype=torch.float64)
    assert torch.equal(plot("mimic", rows_MD), rows_MD[2])


def test_a_sybils_update_is_the_mean():
    assert torch.equal(plot("sybil", rows()), rows().mean(0))


def test_a_clipped_plot_moves_no_value_farther_than_any_attacker_did():
    deltas = [{"a": torch.tensor([0.0, 0.5], dtype=torch.float64)}, {"a": torch.tensor([2.0, 0.5], dtype=torch.float64)}]
    sent = collude("ipm", deltas, 10, AttackConfig(ipm={"epsilon": 5}, clip=True))  # -5 times the mean (1, 0.5)
    assert sent["a"].tolist() == [-2.0, -2.0]


@mark.parametrize("name", sorted(PLOTS))
def test_equal_updates_give_a_multiple_of_themselves(name):
    one_D = rows()[0]
    sent = plot(name, one_D.repeat(3, 1))
    factor = -0.5 if name == "ipm" else 1.0
    assert torch.allclose(sent, factor * one_D)


@mark.parametrize("name", sorted(PLOTS))
def test_the_sent_update_has_the_shapes_of_the_honest_ones(name):
    deltas = [{"b": row_D[:6].reshape(2, 3), "a": row_D[6:]} for row_D in rows()]
    sent = collude(name, deltas, 10, AttackConfig())
    assert {key: tuple(tensor.shape) for key, tensor in sent.items()} == {"a": (3,), "b": (2, 3)}
    flat = torch.cat([sent["a"], sent["b"].reshape(-1)])
    assert torch.allclose(flat, plot(name, torch.stack([torch.cat([d["a"], d["b"].reshape(-1)]) for d in deltas])))
