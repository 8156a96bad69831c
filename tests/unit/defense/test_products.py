"""defense/products.py: how far B A may move, by hand, against the dense product, and against every choice of signs."""

import itertools
import math

import numpy as np
import pytest
import torch

from defense.admission import Reason
from defense.products import check_products, product_bounds, product_change

MODULE = "base_model.layers.0.q_proj"
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape: int):
    """Every tensor of this shape whose values are 1 and -1."""
    for values in itertools.product((1.0, -1.0), repeat=math.prod(shape)):
        yield torch.tensor(values).reshape(shape)


def bound(a: torch.Tensor, b: torch.Tensor, reach_a: float, reach_b: float) -> float:
    return product_bounds({A: a, B: b}, 1.0, reach_a, reach_b)[A]


# The bound


def test_the_bound_by_hand():
    # |A| = 5, |B| = 3, three outputs, two inputs, rank 1: 0.2 sqrt(3) 5 + 0.1 sqrt(2) 3 + 0.02 sqrt(6) = 2.205305, times 2.
    adapter = {A: torch.tensor([[3.0, 4.0]]), B: torch.tensor([[1.0], [2.0], [2.0]])}
    assert product_bounds(adapter, 2.0, reach_a=0.1, reach_b=0.2) == {A: pytest.approx(2 * 2.205305, rel=1e-6)}


def test_where_a_is_frozen_only_b_moves_the_product():
    adapter = {A: torch.tensor([[3.0, 4.0]]), B: torch.tensor([[1.0], [2.0], [2.0]])}
    assert product_bounds(adapter, 2.0, reach_a=0.0, reach_b=0.2) == {A: pytest.approx(2 * 0.2 * math.sqrt(3) * 5)}


def test_each_term_is_the_root_mean_square_over_all_signs():
    a, b = draw(1, 2, 3), draw(2, 2, 2)
    of_b = [float((sign @ a).square().sum()) for sign in signs(2, 2)]
    of_a = [float((b @ sign).square().sum()) for sign in signs(2, 3)]
    of_both = [float((one @ two).square().sum()) for one in signs(2, 2) for two in signs(2, 3)]
    assert bound(a, torch.zeros(2, 2), 0.0, 1.0) == pytest.approx(np.mean(of_b) ** 0.5, rel=1e-6)
    assert bound(torch.zeros(2, 3), b, 1.0, 0.0) == pytest.approx(np.mean(of_a) ** 0.5, rel=1e-6)
    assert bound(torch.zeros(2, 3), torch.zeros(2, 2), 1.0, 1.0) == pytest.approx(np.mean(of_both) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_signs_move_a_product_further_than_the_root_of_the_rank_times_as_far(seed):
    a, b, most = draw(seed, 2, 3), draw(seed + 10, 2, 2), 0.0
    for of_a, of_b in itertools.product(signs(2, 3), signs(2, 2)):
        most = max(most, product_change(a + 0.1 * of_a, b + 0.2 * of_b, a, b))
    assert bound(a, b, 0.1, 0.2) < most <= math.sqrt(2) * bound(a, b, 0.1, 0.2)


def test_signs_that_conspire_with_an_a_of_one_direction_reach_that():
    a, b = torch.ones(4, 5), torch.zeros(3, 4)
    assert product_change(a, b + 0.1, a, b) == pytest.approx(math.sqrt(4) * bound(a, b, 0.0, 0.1), rel=1e-6)


# The change


def test_the_change_by_hand():
    # B A goes from [[1, 0], [0, 0]] to [[2, 2], [0, 0]].
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    assert product_change(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0], [0.0]]), a, b) == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize(("outputs", "rank", "inputs"), [(5, 2, 6), (1, 1, 1), (2, 8, 3), (40, 8, 30)])
def test_the_change_is_that_of_the_dense_products(outputs, rank, inputs):
    a, b = draw(1, rank, inputs), draw(2, outputs, rank)
    new_a, new_b = a + 0.1 * draw(3, rank, inputs), b + 0.1 * draw(4, outputs, rank)
    dense = new_b.double().numpy() @ new_a.double().numpy() - b.double().numpy() @ a.double().numpy()
    assert product_change(new_a, new_b, a, b) == pytest.approx(np.linalg.norm(dense), rel=1e-9)


def test_a_change_a_million_times_smaller_than_the_product_is_exact():
    a, b = 1000 * draw(1, 4, 30), 1000 * draw(2, 20, 4)
    new_b = torch.nextafter(b, torch.full_like(b, math.inf))
    dense = (new_b.double() - b.double()).numpy() @ a.double().numpy()
    assert product_change(a, new_b, a, b) == pytest.approx(np.linalg.norm(dense), rel=1e-6)


def test_turned_signs_of_both_factors_change_no_product():
    a, b = draw(1, 4, 6), draw(2, 5, 4)
    assert product_change(-a, -b, a, b) == pytest.approx(0.0, abs=1e-6)


# The check


def state(scale: float) -> dict[str, torch.Tensor]:
    """An adapter whose product is `scale` times [[3, 4]]."""
    return {A: torch.tensor([[3.0, 4.0]]), B: torch.tensor([[scale]])}


def test_a_product_at_the_bound_is_admitted_and_one_above_is_refused_by_name():
    assert check_products(state(3.0), state(1.0), {A: 10.0 + 1e-9}) is None
    refusal = check_products(state(3.0), state(1.0), {A: 9.9})
    assert refusal.reason is Reason.NORM_EXCEEDED
    assert refusal.detail == f"the product B A of {MODULE} moved by 10, above the bound 9.9"


def test_every_module_is_checked():
    other = {name.replace("layers.0", "layers.1"): tensor for name, tensor in state(3.0).items()}
    bounds = product_bounds(state(1.0) | other, 1.0, 0.1, 0.1)
    assert check_products(state(1.0) | other, state(1.0) | other, bounds) is None
    moved = {name: tensor + 1 if "lora_B" in name else tensor for name, tensor in other.items()}
    assert "layers.1" in check_products(state(1.0) | moved, state(1.0) | other, bounds).detail


def test_without_a_bound_nothing_is_refused():
    assert check_products(state(1e30), state(1.0), None) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_change_that_is_no_number_is_refused(value):
    assert check_products(state(value), state(1.0), {A: 1e300}).reason is Reason.NORM_EXCEEDED


def test_parameters_that_are_no_pair_have_no_bound():
    odd = {"m.lora_A.weight": torch.ones(2, 3), "m.magnitude": torch.ones(4)}
    assert product_bounds(odd, 1.0, 0.1, 0.1) == {}
    assert check_products({name: tensor * 9 for name, tensor in odd.items()}, odd, {}) is None
    assert list(product_bounds(odd | state(1.0), 1.0, 0.1, 0.1)) == [A]


def test_a_convolutions_window_counts_among_its_inputs():
    a, b = draw(1, 2, 3, 3, 3), draw(2, 5, 2, 1, 1)
    flat_a, flat_b = a.reshape(2, 27), b.reshape(5, 2)
    assert bound(a, b, 0.1, 0.2) == bound(flat_a, flat_b, 0.1, 0.2)
    assert product_change(a + 1, b, a, b) == product_change(flat_a + 1, flat_b, flat_a, flat_b)
