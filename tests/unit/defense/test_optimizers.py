"""defense/optimizers.py: three rounds by hand, an independent implementation, and what all of them have in common."""

import math

import numpy as np
import pytest
import safetensors.torch
import torch

from defense.optimizers import OPTIMIZERS, make_optimizer
from defense.rules.config import AggregationConfig

REMEMBERING = [name for name in OPTIMIZERS if name != "none"]


def scalar(value: float) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([value], dtype=torch.float64)}


def moves(name: str, gradients, **parameters) -> list[float]:
    """How far one value moves in each round."""
    step, state, found = make_optimizer(AggregationConfig.model_validate({"optimizer": name, name: parameters})), {}, []
    for gradient in gradients:
        move, state = step(state, scalar(gradient))
        found.append(move["x"].item())
    return found


def draw(seed: int, rounds: int = 4, size: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rounds, size))


def run(name: str, rows: np.ndarray, **parameters) -> np.ndarray:
    config = {"optimizer": name} | ({name: parameters} if parameters else {})
    step, state, found = make_optimizer(AggregationConfig.model_validate(config)), {}, []
    for row in rows:
        move, state = step(state, {"a": torch.tensor(row[:4].reshape(2, 2)), "b": torch.tensor(row[4:])})
        found.append(np.concatenate([move["a"].reshape(-1).numpy(), move["b"].numpy()]))
    return np.array(found)


def by_numpy(name: str, rows: np.ndarray, eta: float, beta1: float, beta2: float, tau: float) -> np.ndarray:
    """Algorithm 2 of arXiv 2003.00295 for a whole sequence, written from the paper; and FedAvgM."""
    m, v, found = np.zeros(rows.shape[1]), np.full(rows.shape[1], tau**2), []
    for g in rows:
        if name == "fedavgm":
            m = beta1 * m + g
            found.append(eta * m)
            continue
        m = beta1 * m + (1 - beta1) * g
        if name == "fedadagrad":
            v = v + g**2
        elif name == "fedyogi":
            v = np.where(v > g**2, v - (1 - beta2) * g**2, v + (1 - beta2) * g**2)
        else:
            v = beta2 * v + (1 - beta2) * g**2
        found.append(eta * m / (np.sqrt(v) + tau))
    return np.array(found)


def test_without_an_optimizer_the_adapter_moves_by_the_pseudo_gradient():
    step, gradient = make_optimizer(AggregationConfig()), scalar(0.1)
    move, state = step({}, gradient)
    assert move["x"] is gradient["x"]
    assert state == {}


@pytest.mark.parametrize(
    ("name", "gradients", "parameters", "expected"),
    [
        # v = 1, 0.5 + 3 = 3.5, 1.75; twice that.
        ("fedavgm", [1, 3, 0], {"momentum": 0.5, "learning_rate": 2}, [2, 7, 3.5]),
        ("fedavgm", [1, -3, 0.5], {"momentum": 0.0}, [1, -3, 0.5]),  # without momentum it is FedAvg
        # v = 16 + 9 = 25, 25 + 144 = 169, 169, of which the roots are 5 and 13; g / (root + 4).
        ("fedadagrad", [3, 12, 0], {"tau": 4, "learning_rate": 1}, [3 / 9, 12 / 17, 0]),
        # m = 1.5, 0.75 + 6 = 6.75, 3.375.
        ("fedadagrad", [3, 12, 0], {"tau": 4, "learning_rate": 2, "beta1": 0.5}, [3 / 9, 13.5 / 17, 6.75 / 17]),
        # v = (1 + 1) / 2, (1 + 49) / 2, (25 + 25) / 2, of which the roots are 1, 5, 5; m = 0.5, 3.75, 4.375.
        ("fedadam", [1, 7, 5], {"tau": 1, "learning_rate": 1, "beta1": 0.5, "beta2": 0.5}, [0.25, 3.75 / 6, 4.375 / 6]),
        # v = 1 (g^2 is no more and no less), 1 + 16 / 2 = 9, 9 - 4 / 2 = 7; m = 0.5, 2.25, 2.125.
        (
            "fedyogi",
            [1, 4, 2],
            {"tau": 1, "learning_rate": 1, "beta1": 0.5, "beta2": 0.5},
            [0.25, 2.25 / 4, 2.125 / (math.sqrt(7) + 1)],
        ),
    ],
)
def test_by_hand(name, gradients, parameters, expected):
    assert moves(name, gradients, **parameters) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", REMEMBERING)
@pytest.mark.parametrize("seed", range(2))
def test_an_independent_implementation_agrees(name, seed):
    given = {"learning_rate": 0.3, "tau": 0.05, "beta1": 0.7, "beta2": 0.8}
    expected = by_numpy(name, draw(seed), 0.3, 0.7, 0.8, 0.05)
    wanted = {"fedavgm": {"learning_rate": 0.3, "momentum": 0.7}, "fedadagrad": {k: given[k] for k in given if k != "beta2"}}
    np.testing.assert_allclose(run(name, draw(seed), **wanted.get(name, given)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("fedavgm", (1.0, 0.9, 0, 0)),
        ("fedadagrad", (1e-3, 0, 0, 1e-3)),
        ("fedyogi", (1e-3, 0.9, 0.99, 1e-3)),
        ("fedadam", (1e-3, 0.9, 0.99, 1e-3)),
    ],
)
def test_the_defaults_are_the_papers(name, defaults):
    np.testing.assert_allclose(run(name, draw(1)), by_numpy(name, draw(1), *defaults), rtol=1e-12)


def test_a_lasting_pseudo_gradient_is_taken_ten_times_as_far():
    assert moves("fedavgm", [1.0] * 300)[-1] == pytest.approx(10)


@pytest.mark.parametrize("name", ["fedadagrad", "fedyogi", "fedadam"])
@pytest.mark.parametrize("size", [1e-2, 1.0, 1e6])
def test_adaptive_steps_are_of_the_order_of_the_learning_rate_whatever_the_gradient(name, size):
    # m = 0.1 g and v = 0.01 g^2 for FedAdam and FedYogi, m = g and v = g^2 for FedAdagrad.
    assert moves(name, [size], learning_rate=0.1, tau=1e-6)[0] == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_and_gradient_are_not_changed_in_place(name):
    step = make_optimizer(AggregationConfig(optimizer=name))
    _, state = step({}, scalar(1.0))
    before, gradient = {key: tensor.clone() for key, tensor in state.items()}, scalar(2.0)
    first, again = (step(state, gradient)[0] for _ in range(2))
    assert torch.equal(first["x"], again["x"])
    assert gradient["x"].item() == 2
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("name", REMEMBERING)
def test_the_state_is_a_safetensors_file_and_goes_on_from_there(name):
    step = make_optimizer(AggregationConfig(optimizer=name))
    _, state = step({}, scalar(1 / 3))
    restored = safetensors.torch.load(safetensors.torch.save(dict(state)))
    assert {tensor.dtype for tensor in restored.values()} == {torch.float64}
    for straight, resumed in zip(step(state, scalar(0.7)), step(restored, scalar(0.7)), strict=True):
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in straight.items())
