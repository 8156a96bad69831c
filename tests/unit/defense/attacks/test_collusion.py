"""defense/attacks/collusion.py: the papers' invariants, on numbers worked by hand and on random rows."""

from collections.abc import Mapping

import torch
from pytest import approx, mark

from defense.attacks.collusion import PLOTS, Occasion, collude
from defense.attacks.config import AttackConfig, IpmConfig, largest_z
from defense.levels.agreement import agreements
from defense.rules.round_updates import RoundUpdates, WeightedUpdate


def rows(seed: int = 0, count: int = 4, width: int = 9) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEN = Occasion(num_clients=10)


def plot(name: str, rows_MD, config: Mapping[str, object] | None = None, round_index: int = 0) -> torch.Tensor:
    now = Occasion(num_clients=10, round_index=round_index)
    return PLOTS[name](torch.as_tensor(rows_MD, dtype=torch.float64), now, AttackConfig.model_validate(config or {}))


def farthest(rows_MD: torch.Tensor, point_D: torch.Tensor) -> float:
    return float((rows_MD - point_D).norm(dim=1).max())


@mark.parametrize(
    ("name", "rows_MD", "config", "expected"),
    [
        ("alie", [[1, 0], [3, 0]], {"alie": {"z": 0.5}}, [1.5, 0]),  # mean 2 and 0, standard deviation 1 and 0
        ("ipm", [[1, 2], [3, 0]], {"ipm": {"epsilon": 0.5}}, [-1, -0.5]),
        # Rows at 0 and 2 on a line: mean 1, standard deviation 1. Two apart: at most distance 2 from the farther, which is at 2;
        # squared distances of a row sum to 4: (x - 0)^2 + (x - 2)^2 = 4 at x = 0 or 2.
        ("min_max", [[0], [2]], {}, [0]),
        ("min_sum", [[0], [2]], {}, [0]),
        ("mimic", [[0, 0.1], [0.2, 0], [9, 0]], {}, [9, 0]),  # the row that stands out
        ("sybil", [[1, 2], [3, 0]], {}, [2, 1]),
        (
            "exclusion",
            [[3, 0], [0, 1]],
            {"exclusion": {"targets": 1}},
            [-2, 0],
        ),  # as long as both in the mean
        ("exclusion", [[3, 0], [0, 4]], {}, [-3.5 / 2**0.5, -3.5 / 2**0.5]),
    ],
)
def test_by_hand(name, rows_MD, config, expected):
    assert plot(name, rows_MD, config).tolist() == approx(expected)


def test_alie_stays_within_z_standard_deviations_in_every_value():
    rows_MD, z = rows(), largest_z(10, 4)
    away_D = (plot("alie", rows_MD) - rows_MD.mean(0)).abs()
    assert bool((away_D <= z * rows_MD.std(0, correction=0) + 1e-12).all())


@mark.parametrize("perturbation", ["std", "unit", "sign"])
@mark.parametrize("seed", range(3))
def test_min_max_and_min_sum_go_as_far_as_their_bounds_allow(perturbation, seed):
    rows_MD, config = rows(seed) + 2, {"min_max": {"perturbation": perturbation}}
    sent, mean_D = plot("min_max", rows_MD, config), rows_MD.mean(0)
    assert farthest(rows_MD, sent) == approx(max(farthest(rows_MD, row_D) for row_D in rows_MD))
    assert float((sent - mean_D) @ mean_D) < 0
    sent = plot("min_sum", rows_MD, config)
    assert float((rows_MD - sent).square().sum()) == approx(max(float((rows_MD - r).square().sum()) for r in rows_MD))


def test_excluders_turn_one_family_after_another():
    rows_MD, one = [[2, 0, 0], [0, 2, 0], [0, 0, 2]], {"exclusion": {"targets": 1}}
    assert [int(plot("exclusion", rows_MD, one, round_index=index).argmin()) for index in range(4)] == [0, 1, 2, 0]
    two = [(plot("exclusion", rows_MD, round_index=index) < 0).nonzero().flatten().tolist() for index in range(3)]
    assert two == [[0, 1], [0, 2], [1, 2]]  # two in each round, in turns


def test_excluders_turn_the_others_away_from_a_client_and_towards_themselves():
    # Ten clients, seven honest ones at right angles. The first is turned: -3 / sqrt(9 + 6); an attacker has 1 / sqrt(1 + 6).
    honest_MD = torch.eye(7, dtype=torch.float64)
    sent_D = plot("exclusion", honest_MD[:3], {"exclusion": {"targets": 1}})
    updates = RoundUpdates()
    for index, row_D in enumerate([*honest_MD, sent_D, sent_D, sent_D]):
        updates = updates.add(WeightedUpdate(client_id=str(index), delta={"a": row_D}, num_samples=1, weight=1.0))
    cosines = agreements(updates, [1.0] * 10)
    assert cosines[0] == approx(-3 / 15**0.5)
    assert cosines[1:7] == approx([0.0] * 6)
    assert cosines[7:] == approx([1 / 7**0.5] * 3)


def test_a_clipped_plot_moves_no_value_farther_than_any_attacker_did():
    deltas = [{"a": torch.tensor([0.0, 0.5], dtype=torch.float64)}, {"a": torch.tensor([2.0, 0.5], dtype=torch.float64)}]
    sent = collude("ipm", deltas, TEN, AttackConfig(ipm=IpmConfig(epsilon=5), clip=True))  # -5 times the mean (1, 0.5)
    assert sent["a"].tolist() == [-2.0, -2.0]


@mark.parametrize("name", PLOTS)
def test_equal_updates_give_a_multiple_of_themselves(name):
    one_D = rows()[0]
    assert torch.allclose(plot(name, one_D.repeat(3, 1)), {"ipm": -0.5, "exclusion": -1.0}.get(name, 1.0) * one_D)


@mark.parametrize("name", PLOTS)
def test_the_sent_update_has_the_shapes_of_the_honest_ones(name):
    deltas = [{"b": row_D[:6].reshape(2, 3), "a": row_D[6:]} for row_D in rows()]
    sent = collude(name, deltas, TEN, AttackConfig())
    assert {key: tuple(tensor.shape) for key, tensor in sent.items()} == {"a": (3,), "b": (2, 3)}
    expected = plot(name, torch.stack([torch.cat([d["a"], d["b"].reshape(-1)]) for d in deltas]))
    assert torch.allclose(torch.cat([sent["a"], sent["b"].reshape(-1)]), expected)
