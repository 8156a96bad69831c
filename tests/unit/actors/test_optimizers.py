"""The optimizers of local training against their formulas, by hand."""

import math

import pytest
import torch

from actors.optimizers import make_optimizer


def walk(name: str, gradients: list[float], learning_rate: float = 0.1, weight_decay: float = 0.0, start: float = 0.0):
    """The value after each step."""
    value = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer, seen = make_optimizer(name, [value], learning_rate, weight_decay), []
    for gradient in gradients:
        value.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        seen.append(value.item())
    return seen


def test_sgd_has_momentum():
    """v = 1, 1.9, 2.71."""
    assert walk("sgd", [1, 1, 1]) == pytest.approx([-0.1, -0.29, -0.561])
    assert walk("sgd", [1] * 10, learning_rate=1)[-1] == pytest.approx(-41.38, abs=0.01)


def test_sgd_adds_decay_to_the_gradient():
    """Gradients 1 + 0.5 * 2 = 2, and 1 + 0.5 * 1.8 = 1.9; v = 2, 3.7."""
    assert walk("sgd", [1, 1], weight_decay=0.5, start=2) == pytest.approx([1.8, 1.43])


def test_adagrad_divides_by_the_root_of_the_sum_of_squares():
    """Steps 0.1 * 2/2, 0.1 * 2/sqrt(8) and 0.1 * -1/3."""
    first, second = -0.1, -0.1 - 0.2 / math.sqrt(8)
    assert walk("adagrad", [2, 2, -1]) == pytest.approx([first, second, second + 0.1 / 3])


def test_adagrad_adds_decay_to_the_gradient():
    assert walk("adagrad", [1], weight_decay=0.5, start=-4) == pytest.approx([-3.9])  # 1 - 2 is negative


def test_adamw_is_the_papers_with_decay_apart_from_the_gradient():
    """Two steps of Loshchilov and Hutter's algorithm 2 by hand."""
    value, first, second, expected = 2.0, 0.0, 0.0, []
    for step, gradient in enumerate((3.0, -1.0), start=1):
        value *= 1 - 0.1 * 0.5
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        value -= 0.1 * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected.append(value)
    assert walk("adamw", [3, -1], weight_decay=0.5, start=2) == pytest.approx(expected)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer=lion is none of adamw, sgd and adagrad"):
        walk("lion", [])
