"""defense/attacks/probe_aware.py: below the threshold, and no farther than it takes."""

import math

import torch
from pytest import approx, mark

from defense.attacks.probe_aware import blended_below, nearest_below


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def margin(v_D: torch.Tensor, weight_D: torch.Tensor) -> float:
    return float(weight_D @ v_D) / float(v_D.norm())


def test_what_is_below_stays_as_it_is():
    delta = vector(0.0, 1.0)
    assert torch.equal(nearest_below(delta, vector(1.0, 0.0), 0.5), delta)


def test_a_linear_probe_is_passed_on_the_edge_of_its_cone():
    # w = (2, 0) and bound 1: angles of at least 60 degrees to w pass. (1, 1) lies at 45 degrees; the edge is (1/2, sqrt(3)/2),
    # and the nearest point on it is its projection, (1/2 + sqrt(3)/2) times that.
    sent = nearest_below(vector(1.0, 1.0), vector(2.0, 0.0), 1.0)
    length = 0.5 + math.sqrt(3) / 2
    assert sent.tolist() == approx([length / 2, length * math.sqrt(3) / 2])


@mark.parametrize("seed", range(4))
@mark.parametrize("bound", [-1.5, -0.2, 0.0, 0.4, 1.5])
def test_no_random_vector_that_passes_is_nearer(seed, bound):
    generator = torch.Generator().manual_seed(seed)
    weight, delta = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = 3 * weight / weight.norm()
    delta = delta + 2 * weight / 3
    sent = nearest_below(delta, weight, bound)
    assert margin(sent, weight) <= bound + 1e-9
    moved = min(float((sent - delta).norm()), float(delta.norm()))  # a vector of length 0 would be the limit of those that pass
    tried = delta + moved * 0.999 * torch.nn.functional.normalize(
        torch.randn(4000, 3, generator=generator, dtype=torch.float64), dim=1
    ) * torch.rand(4000, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    assert moved == 0 or bool((tried @ weight > bound * tried.norm(dim=1)).all())


def test_a_delta_along_the_weights_turns_aside():
    sent = nearest_below(vector(2.0, 0.0, 0.0), vector(1.0, 0.0, 0.0), 0.5)
    assert margin(sent, vector(1.0, 0.0, 0.0)) == approx(0.5)


def test_where_every_direction_scores_too_high_nothing_is_sent():
    assert not nearest_below(vector(1.0, 2.0), vector(1.0, 0.0), -2.0).any()


def test_another_classifier_is_passed_with_the_least_benign_share():
    sent = blended_below(vector(1.0), vector(0.0), lambda row_D: float(row_D[0]) ** 2, 0.25)
    assert sent.tolist() == approx([0.5])
    assert float(sent[0]) ** 2 <= 0.25


def test_where_no_blend_passes_the_benign_one_is_sent():
    assert blended_below(vector(1.0), vector(0.0), lambda _: 0.9, 0.5).tolist() == [0.0]
