"""defense/admission/bounds.py: what AdamW can do in a round, by hand and against AdamW itself."""

import math
import time

import pytest
import torch

from defense.admission.bounds import RoundBounds, adamw_norm_bound, adamw_reach, round_bounds
from defense.admission.settings import AdmissionConfig

A = "m.lora_A.weight"
ADAPTER = {A: torch.full((1, 4), 0.5), "m.lora_B.weight": torch.zeros(9, 1)}
TRAINING = {"learning_rate": 0.01, "shadow_rate": 0.02, "num_steps": 1, "weight_decay": 0.5, "freezes_a": False}


def test_bounds_of_a_round_by_hand():
    # One step reaches 0.01, and decay pulls a value of up to 0.51 by half a percent: 0.01255. At 0.02: 0.02 + 0.01 x 0.52.
    bounds = round_bounds(AdmissionConfig(norm_factor=4, value_factor=2, product_factor=3), ADAPTER, **TRAINING)
    assert bounds.max_norm == pytest.approx(4 * 0.02 * 13**0.5)
    assert bounds.max_value == pytest.approx(2 * 0.01255)
    assert bounds.max_shadow_value == pytest.approx(2 * 0.0252)
    # |A| = 1 and B = 0: 0.01255 x sqrt(9) x 1, and 0.01255^2 x sqrt(9 x 4 x 1).
    assert bounds.products.by_module() == {A: pytest.approx(3 * (3 * 0.01255 + 6 * 0.01255**2))}


def test_where_a_is_frozen_only_b_moves_a_product():
    bounds = round_bounds(AdmissionConfig(product_factor=3), ADAPTER, **TRAINING | {"freezes_a": True})
    assert bounds.products.by_module() == {A: pytest.approx(3 * 3 * 0.01255)}


def test_bounds_that_are_switched_off():
    bounds = round_bounds(AdmissionConfig(max_norm=7, value_factor=None, product_factor=None), ADAPTER, **TRAINING)
    assert bounds == RoundBounds(max_norm=7, max_value=None, max_shadow_value=None, products=None)


def test_the_norm_bound_is_the_learning_rate_in_every_value_at_every_step():
    # 100 values, each moved by 0.01 in each of 10 steps: 0.1 each, norm 0.1 x sqrt(100) = 1; times the factor 4.
    assert adamw_norm_bound(4.0, 0.01, 10, 100) == pytest.approx(4.0)


def test_an_honest_adamw_run_stays_within_the_norm_bound_at_factor_1_point_5():
    parameter = torch.nn.Parameter(torch.zeros(64))
    optimizer = torch.optim.AdamW([parameter], lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        parameter.grad = torch.randn(64, generator=generator)
        optimizer.step()
    bound = adamw_norm_bound(1.5, 0.01, 5, 64)
    assert bound / 10 < float(parameter.detach().norm()) <= bound


@pytest.mark.parametrize("steps", [1, 10, 40])
@pytest.mark.parametrize("kind", ["constant", "sudden", "alternating", "random"])
def test_no_gradient_moves_a_value_further_than_adamw_reaches(kind, steps):
    generator = torch.Generator().manual_seed(steps)
    gradients = {
        "constant": torch.ones(steps),
        "sudden": torch.tensor([10.0**i for i in range(steps)], dtype=torch.float64),  # each dwarfs those before it
        "alternating": torch.tensor([(-1.0) ** i for i in range(steps)]),
        "random": torch.randn(steps, generator=generator),
    }[kind].double()
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.0, eps=0.0)
    for gradient in gradients:
        parameter.grad = gradient.reshape(1)
        optimizer.step()
    assert abs(parameter.item()) <= adamw_reach(0.01, steps) * (1 + 1e-9)


def test_the_reach_of_adamw_by_hand():
    # The first step moves by the learning rate. In the second, sum = 0.01 / 0.001 + 0.0081 / 0.000999 = 18.1081,
    # times 1 - 0.999^2 = 0.001999, the root of it by 1 - 0.81 = 0.19: 0.190258 / 0.19 = 1.001358.
    assert adamw_reach(0.01, 1) == pytest.approx(0.01)
    assert adamw_reach(0.01, 2) == pytest.approx(0.01 * 2.001358, rel=1e-6)


def test_the_reach_is_the_sum_of_its_formula_and_takes_time_in_proportion_to_the_steps():
    def written_out(steps: int) -> float:
        reach = 0.0
        for step in range(1, steps + 1):
            most = sum((0.1 * 0.9**i) ** 2 / (0.001 * 0.999**i) for i in range(step))
            reach += math.sqrt(most * (1 - 0.999**step)) / (1 - 0.9**step)
        return reach

    for steps in (*range(1, 60), 300):
        assert adamw_reach(1.0, steps) == pytest.approx(written_out(steps), rel=1e-12)
    began = time.perf_counter()
    assert 1e6 < adamw_reach(1.0, 1_000_000) < 1e7
    assert time.perf_counter() - began < 5
