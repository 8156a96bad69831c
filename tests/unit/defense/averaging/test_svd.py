"""defense/averaging/svd.py: the best rank-r approximation of the mean of B A, against the dense product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defense.averaging import svd
from defense.rules.accumulator import make_accumulator
from defense.rules.config import AggregationConfig
from defense.rules.round_updates import RoundUpdates, WeightedUpdate

A, B = "layers.0.q.lora_A.weight", "layers.0.q.lora_B.weight"
A1, B1 = "layers.1.q.lora_A.weight", "layers.1.q.lora_B.weight"
SHAPES = {A: (2, 6), B: (5, 2), A1: (2, 4), B1: (7, 2)}
Adapter = dict[str, torch.Tensor]


def draw(seed: int, shapes=SHAPES) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def collected(states: list[Adapter], start: Adapter, masses=None, ids=None, arrival=None) -> RoundUpdates:
    """The states as deltas of `start`; client `c0`, `c1` ... and equal masses unless given."""
    masses, ids = masses or [1] * len(states), ids or [f"c{i}" for i in range(len(states))]
    updates = RoundUpdates()
    for i in arrival or range(len(states)):
        delta = {name: tensor.double() - start[name].double() for name, tensor in states[i].items()}
        updates = updates.add(WeightedUpdate(client_id=ids[i], delta=delta, num_samples=masses[i], weight=1.0))
    return updates


def products(adapter: Adapter) -> list[np.ndarray]:
    """B A of each module, float64."""
    pairs = [(a, a.replace("lora_A", "lora_B")) for a in sorted(adapter) if "lora_A" in a]
    return [(adapter[b].double() @ adapter[a].double()).numpy() for a, b in pairs]


def averaged(states: list[Adapter], start: Adapter, **given) -> tuple[Adapter, float]:
    """The new adapter in float64, and the error."""
    found = svd.aggregate(collected(states, start, **given), start)
    assert found.error is not None
    return {name: start[name].double() + tensor for name, tensor in found.delta.items()}, found.error


def mean_products(states: list[Adapter], masses) -> list[np.ndarray]:
    return [np.average(each, axis=0, weights=masses) for each in zip(*map(products, states), strict=True)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_clients", [2, 3, 8])
def test_it_is_the_truncated_svd_of_the_dense_mean(seed, num_clients):
    states, masses = [draw(seed * 100 + i) for i in range(num_clients)], list(range(1, num_clients + 1))
    adapter, error = averaged(states, draw(999), masses=masses)
    lost = total = 0.0
    for found, mean in zip(products(adapter), mean_products(states, masses), strict=True):
        u, s, vh = np.linalg.svd(mean)
        np.testing.assert_allclose(found, (u[:, :2] * s[:2]) @ vh[:2], rtol=1e-5, atol=1e-6)
        lost, total = lost + (s[2:] ** 2).sum(), total + (s**2).sum()
    assert error == pytest.approx(np.sqrt(lost / total), rel=1e-6)


def test_a_mean_by_hand():
    # Rank 1. Client one has B A = [[4, 0], [0, 0]], client two [[0, 0], [0, 2]], their mean is diag(2, 1).
    start = {A: torch.tensor([[1.0, 0.0]]), B: torch.tensor([[1.0], [0.0]])}
    one = {A: torch.tensor([[4.0, 0.0]]), B: torch.tensor([[1.0], [0.0]])}
    two = {A: torch.tensor([[0.0, 1.0]]), B: torch.tensor([[0.0], [2.0]])}
    adapter, error = averaged([one, two], start)
    torch.testing.assert_close(adapter[A], torch.tensor([[1.0, 0.0]], dtype=torch.float64))  # near the global A, of its norm
    torch.testing.assert_close(adapter[B], torch.tensor([[2.0], [0.0]], dtype=torch.float64))
    assert error == pytest.approx((1 / 5) ** 0.5)


def test_nothing_is_lost_where_the_mean_has_no_more_than_the_rank():
    states = [draw(i) for i in range(4)]
    shared = [state | {A: states[0][A], A1: states[0][A1]} for state in states]
    adapter, error = averaged(shared, draw(99), masses=[1, 2, 3, 4])
    for found, mean in zip(products(adapter), mean_products(shared, [1, 2, 3, 4]), strict=True):
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("num_clients", [1, 2, 7])
def test_identical_updates_return_the_same_product(num_clients):
    adapter, error = averaged([draw(5)] * num_clients, draw(6), masses=list(range(1, num_clients + 1)))
    for found, given in zip(products(adapter), products(draw(5)), strict=True):
        np.testing.assert_allclose(found, given, rtol=1e-5, atol=1e-6)
    assert error < 1e-6


def test_the_order_of_arrival_does_not_change_a_bit():
    states, start = [draw(i) for i in range(5)], draw(50)
    first, again = (averaged(states, start, arrival=arrival)[0] for arrival in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_it_does_not_matter_which_client_has_which_id():
    states, start = [draw(i) for i in range(5)], draw(50)
    first, _ = averaged(states, start, masses=[1, 2, 3, 4, 5])
    renamed, _ = averaged(states, start, masses=[1, 2, 3, 4, 5], ids=["e", "b", "d", "a", "c"])
    for name, tensor in first.items():  # the factors too, whatever signs the decomposition chose
        torch.testing.assert_close(renamed[name], tensor, rtol=1e-8, atol=1e-10)


def test_factors_of_the_same_product_are_the_same_client():
    """(-B, -A), or any (B M, inv(M) A), ruins an average of factors and is of no consequence here."""
    states, start = [draw(i) for i in range(3)], draw(50)
    turn = torch.tensor([[0.6, -0.8], [1.6, 1.2]])
    turned = {A: -states[1][A], B: -states[1][B], A1: torch.linalg.inv(turn) @ states[1][A1], B1: states[1][B1] @ turn}
    first, _ = averaged(states, start)
    second, _ = averaged([states[0], turned, states[2]], start)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_new_a_has_the_norm_of_the_global_one_and_rows_that_are_orthogonal():
    start = draw(50)
    adapter, _ = averaged([draw(i) for i in range(3)], start)
    for name in (A, A1):
        gram = adapter[name] @ adapter[name].T
        torch.testing.assert_close(gram, torch.eye(2).double() * start[name].double().square().sum() / 2, rtol=1e-6, atol=1e-6)


def test_where_a_was_frozen_the_factors_themselves_are_averaged():
    rows = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(1))).Q.T.contiguous()
    states = [{A: 3 * rows, B: draw(i)[B]} for i in range(4)]
    adapter, _ = averaged(states, {A: 3 * rows, B: draw(9)[B]})
    torch.testing.assert_close(adapter[A], states[0][A].double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(adapter[B], sum(state[B].double() for state in states) / 4, rtol=1e-5, atol=1e-6)


def test_without_any_weight_in_b_the_rows_of_a_stay_so_that_it_can_be_trained():
    start = draw(50) | {B: torch.zeros(5, 2), B1: torch.zeros(7, 2)}
    adapter, error = averaged([start, start], start)
    assert error == 0
    assert not adapter[B].any()
    assert adapter[A].norm() == pytest.approx(float(start[A].norm()))


@pytest.mark.parametrize(("outputs", "inputs"), [(2, 6), (5, 3), (2, 3), (1, 1)])
def test_a_rank_above_the_modules_size_loses_nothing(outputs, inputs):
    shapes = {A: (4, inputs), B: (outputs, 4)}
    states = [draw(i, shapes) for i in range(3)]
    adapter, error = averaged(states, draw(9, shapes))
    assert {name: tuple(tensor.shape) for name, tensor in adapter.items()} == shapes
    np.testing.assert_allclose(products(adapter)[0], mean_products(states, None)[0], rtol=1e-5, atol=1e-6)
    assert error < 1e-6


def test_an_adapter_of_zeros_is_no_division_by_zero():
    start = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    adapter, error = averaged([draw(1), draw(1)], start)
    np.testing.assert_allclose(products(adapter)[0], products(draw(1))[0], rtol=1e-5, atol=1e-6)
    assert error < 1e-6
    _, nothing = averaged([start, start], start)
    assert nothing == 0


def test_neither_updates_nor_adapter_are_changed_and_the_accumulator_gives_the_same():
    start, updates = draw(1), collected([draw(2), draw(3)], draw(1))
    before = {name: tensor.clone() for name, tensor in start.items()}
    accumulator = make_accumulator(AggregationConfig(averaging="svd"))
    for update in updates.updates:
        accumulator.add(update)
    first, second = svd.aggregate(updates, start), accumulator.finish(start, {}, np.random.default_rng(0))
    assert all(torch.equal(tensor, second.delta[name]) for name, tensor in first.delta.items())
    assert all(torch.equal(start[name], tensor) for name, tensor in before.items())
    assert {tensor.dtype for tensor in first.delta.values()} == {torch.float64}
