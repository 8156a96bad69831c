"""defense/admission/products.py: how far B A may move, by hand, against the dense product, and against every choice of signs."""

import itertools
import math

import numpy as np
import pytest
import torch

from defense.admission import products
from defense.admission.checks import Reason, Refusal
from defense.admission.products import ProductBounds

MODULE = "base_model.layers.0.q_proj"
A, B = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape: int):
    """Every tensor of this shape whose values are 1 and -1."""
    for values in itertools.product((1.0, -1.0), repeat=math.prod(shape)):
        yield torch.tensor(values).reshape(shape)


def bound(a: torch.Tensor, b: torch.Tensor, reach_a: float, reach_b: float, factor: float = 1.0) -> float:
    return ProductBounds({A: a, B: b}, factor, reach_a, reach_b).by_module()[A]


def change(new_a: torch.Tensor, new_b: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> float:
    return ProductBounds({A: a, B: b}, 1.0, 1.0, 1.0).changes({A: new_a, B: new_b})[A]


# The bound


def test_the_bound_by_hand():
    # |A| = 5, |B| = 3, three outputs, two inputs, rank 1: 0.2 sqrt(3) 5 + 0.1 sqrt(2) 3 + 0.02 sqrt(6) = 2.205305, times 2.
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0], [2.0]])
    assert bound(a, b, 0.1, 0.2, factor=2.0) == pytest.approx(2 * 2.205305, rel=1e-6)
    assert bound(a, b, 0.0, 0.2, factor=2.0) == pytest.approx(2 * 0.2 * math.sqrt(3) * 5)  # A is frozen


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
    a, b = draw(seed, 2, 3), draw(seed + 10, 2, 2)
    bounds = ProductBounds({A: a, B: b}, 1.0, 0.1, 0.2)
    moves = itertools.product(signs(2, 3), signs(2, 2))
    most = max(bounds.changes({A: a + 0.1 * of_a, B: b + 0.2 * of_b})[A] for of_a, of_b in moves)
    assert bounds.by_module()[A] < most <= math.sqrt(2) * bounds.by_module()[A]


def test_signs_that_conspire_with_an_a_of_one_direction_reach_that():
    a, b = torch.ones(4, 5), torch.zeros(3, 4)
    assert change(a, b + 0.1, a, b) == pytest.approx(math.sqrt(4) * bound(a, b, 0.0, 0.1), rel=1e-6)


# The change


def test_the_change_by_hand():
    # B A goes from [[1, 0], [0, 0]] to [[2, 2], [0, 0]].
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    assert change(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0], [0.0]]), a, b) == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize(("outputs", "rank", "inputs"), [(5, 2, 6), (1, 1, 1), (2, 8, 3), (40, 8, 30)])
def test_the_change_is_that_of_the_dense_products(outputs, rank, inputs):
    a, b = draw(1, rank, inputs), draw(2, outputs, rank)
    new_a, new_b = a + 0.1 * draw(3, rank, inputs), b + 0.1 * draw(4, outputs, rank)
    dense = new_b.double().numpy() @ new_a.double().numpy() - b.double().numpy() @ a.double().numpy()
    assert change(new_a, new_b, a, b) == pytest.approx(np.linalg.norm(dense), rel=1e-9)


def test_a_change_a_million_times_smaller_than_the_product_is_exact():
    a, b = 1000 * draw(1, 4, 30), 1000 * draw(2, 20, 4)
    new_b = torch.nextafter(b, torch.full_like(b, math.inf))
    dense = (new_b.double() - b.double()).numpy() @ a.double().numpy()
    assert change(a, new_b, a, b) == pytest.approx(np.linalg.norm(dense), rel=1e-6)


def test_turned_signs_of_both_factors_change_no_product():
    a, b = draw(1, 4, 6), draw(2, 5, 4)
    assert change(-a, -b, a, b) == pytest.approx(0.0, abs=1e-6)


def test_a_convolutions_window_counts_among_its_inputs():
    a, b = draw(1, 2, 3, 3, 3), draw(2, 5, 2, 1, 1)
    flat_a, flat_b = a.reshape(2, 27), b.reshape(5, 2)
    assert bound(a, b, 0.1, 0.2) == bound(flat_a, flat_b, 0.1, 0.2)
    assert change(a + 1, b, a, b) == change(flat_a + 1, flat_b, flat_a, flat_b)


# The check


def layer(number: int, seed: int, *, outputs: int = 5, rank: int = 2, inputs: int = 6) -> dict[str, torch.Tensor]:
    """The factors of one module."""
    a, b = (name.replace("layers.0", f"layers.{number}") for name in (A, B))
    return {a: draw(seed, rank, inputs), b: draw(seed + 100, outputs, rank)}


@pytest.mark.parametrize("batch_values", [1 << 21, 1])
def test_modules_that_are_computed_together_have_the_figures_of_each_alone(monkeypatch, batch_values):
    monkeypatch.setattr(products, "_BATCH_VALUES", batch_values)
    parts = [layer(0, 0), layer(1, 1), layer(2, 2, outputs=7), layer(3, 3)]
    moved = [{name: tensor + 0.1 for name, tensor in part.items()} for part in parts]
    together = ProductBounds({k: v for part in parts for k, v in part.items()}, 2.0, 0.1, 0.2)
    alone = [ProductBounds(part, 2.0, 0.1, 0.2) for part in parts]
    expected = {k: v for each in alone for k, v in each.by_module().items()}
    assert together.by_module() == pytest.approx(expected, rel=1e-12)
    changes = {k: v for each, part in zip(alone, moved, strict=True) for k, v in each.changes(part).items()}
    assert together.changes({k: v for part in moved for k, v in part.items()}) == pytest.approx(changes, rel=1e-12)


def state(scale: float) -> dict[str, torch.Tensor]:
    """An adapter whose product is `scale` times [[3, 4]], of norm 5."""
    return {A: torch.tensor([[3.0, 4.0]]), B: torch.tensor([[scale]])}


def test_a_product_at_the_bound_is_admitted_and_one_above_is_refused_by_name():
    bounds = ProductBounds(state(1.0), 2.0, 0.0, 1.0)  # 2 x 1 x sqrt(1) x 5
    assert bounds.check(state(3.0 - 1e-6)) is None
    refusal = bounds.check(state(3.5))
    assert refusal == Refusal(Reason.NORM_EXCEEDED, f"the product B A of {MODULE} moved by 12.5, above the bound 10")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_module_is_checked(number):
    adapter = layer(0, 0) | layer(1, 1) | layer(2, 2, outputs=7)
    bounds = ProductBounds(adapter, 1.0, 0.1, 0.1)
    assert bounds.check(adapter) is None
    moved = {name: tensor + 1 if f"layers.{number}." in name else tensor for name, tensor in adapter.items()}
    assert f"layers.{number}" in bounds.check(moved).detail


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_change_that_is_no_number_is_refused(value):
    assert ProductBounds(state(1.0), 1e300, 0.1, 0.1).check(state(value)).reason is Reason.NORM_EXCEEDED


def test_parameters_that_are_no_pair_have_no_bound():
    odd = {"m.lora_A.weight": torch.ones(2, 3), "m.magnitude": torch.ones(4)}
    bounds = ProductBounds(odd, 1.0, 0.1, 0.1)
    assert bounds.by_module() == {}
    assert bounds.check({name: tensor * 9 for name, tensor in odd.items()}) is None
    assert list(ProductBounds(odd | state(1.0), 1.0, 0.1, 0.1).by_module()) == [A]
