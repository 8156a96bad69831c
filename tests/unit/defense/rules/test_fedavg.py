"""defense/rules/fedavg.py: the mean weighted by samples x weight, whatever the order of the clients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defense.config import AggregationConfig
from defense.rules import make_rule
from defense.rules.rule import Update

RULE = make_rule(AggregationConfig(rule="fedavg"))


def add(state, delta: dict[str, torch.Tensor], num_samples: int, weight: float):
    return RULE.add(state, Update(client_id="a", delta=delta, num_samples=num_samples, weight=weight))


def finish(state) -> dict[str, torch.Tensor]:
    return RULE.finish(state, {}, np.random.default_rng(0)).delta


def aggregate(*clients: tuple[dict[str, torch.Tensor], int, float]) -> dict[str, torch.Tensor]:
    state = RULE.init()
    for delta, num_samples, weight in clients:
        state = add(state, delta, num_samples, weight)
    return finish(state)


def delta(*values: float) -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(values, dtype=torch.float64)}


def test_the_mean_is_weighted_by_samples_times_weight():
    # Masses 10 x 0.5 = 5 and 15 x 1 = 15. First value (5 x 1 + 15 x 3) / 20 = 2.5, second (5 x 2 - 15 x 6) / 20 = -4.
    mean = aggregate((delta(1, 2), 10, 0.5), (delta(3, -6), 15, 1.0))
    assert mean["a"].tolist() == [2.5, -4.0]


def test_every_tensor_is_averaged():
    # Masses 1 and 3: (1 x 4 + 3 x 8) / 4 = 7 and (1 x 0 + 3 x 4) / 4 = 3.
    mean = aggregate(
        ({"a": torch.tensor([[4.0]]).double(), "b": torch.tensor([0.0]).double()}, 1, 1.0),
        ({"a": torch.tensor([[8.0]]).double(), "b": torch.tensor([4.0]).double()}, 3, 1.0),
    )
    assert {name: tensor.tolist() for name, tensor in mean.items()} == {"a": [[7.0]], "b": [3.0]}


def test_half_the_weight_is_half_the_samples():
    assert aggregate((delta(1), 8, 0.5), (delta(4), 2, 1.0))["a"].tolist() == (
        aggregate((delta(1), 4, 1.0), (delta(4), 2, 1.0))["a"].tolist()
    )


def test_one_client_alone_is_returned_whatever_its_weight():
    # The normalisation divides by sum n w, so the only client takes a full step.
    assert aggregate((delta(0.75, -2), 12, 0.25))["a"].tolist() == [0.75, -2.0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(1, 500), st.floats(1e-3, 1.0)), min_size=1, max_size=8),
)
def test_identical_updates_return_themselves(values, masses):
    # Equal in float64 up to rounding, and therefore equal to the bit once written as float32.
    given_delta = delta(*values)
    mean = aggregate(*((given_delta, num_samples, weight) for num_samples, weight in masses))
    torch.testing.assert_close(mean["a"], given_delta["a"], rtol=1e-14, atol=0)
    assert torch.equal(mean["a"].float(), given_delta["a"].float())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_the_order_of_clients_does_not_matter_and_numpy_agrees(seed, num_clients):
    rng = np.random.default_rng(seed)
    values, samples = rng.normal(size=(num_clients, 5)), rng.integers(1, 200, num_clients)
    weights = rng.uniform(0.01, 1, num_clients)
    clients = [(delta(*row), int(n), float(w)) for row, n, w in zip(values, samples, weights, strict=True)]
    mean, shuffled = aggregate(*clients), aggregate(*(clients[i] for i in rng.permutation(num_clients)))
    torch.testing.assert_close(shuffled["a"], mean["a"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(mean["a"].numpy(), np.average(values, axis=0, weights=samples * weights), rtol=1e-11, atol=1e-13)


def test_the_result_is_float64():
    assert aggregate((delta(1), 1, 1.0))["a"].dtype == torch.float64


@pytest.mark.parametrize(
    ("num_samples", "weight", "message"),
    [
        (12, 0.0, r"mass 0\.0 \(num_samples 12 x weight 0\.0\)"),
        (0, 0.5, r"mass 0\.0 \(num_samples 0 x weight 0\.5\)"),
        (4, -0.5, r"mass -2\.0 \(num_samples 4 x weight -0\.5\)"),
        (4, math.nan, r"mass nan \(num_samples 4 x weight nan\)"),
    ],
)
def test_a_mass_that_is_not_positive_is_refused_with_its_figures(num_samples, weight, message):
    with pytest.raises(ValueError, match=message):
        aggregate((delta(1), num_samples, weight))


def test_nan_of_a_client_of_weight_0_cannot_reach_the_mean():
    state = add(RULE.init(), delta(1, 2), 10, 1.0)
    with pytest.raises(ValueError, match="must not be added"):
        add(state, delta(math.nan, math.inf), 10, 0.0)
    # (10 x 1 + 10 x 3) / 20 = 2 and (10 x 2 + 10 x 6) / 20 = 4, as if the refused client had not been there.
    assert finish(add(state, delta(3, 6), 10, 1.0))["a"].tolist() == [2.0, 4.0]


def test_a_round_without_clients_has_no_mean():
    with pytest.raises(ValueError, match="no client was added"):
        aggregate()


def test_adding_a_client_changes_neither_the_state_before_nor_the_delta():
    first = delta(2)
    before = add(RULE.init(), first, 1, 1.0)
    add(before, delta(10), 1, 1.0)
    assert finish(before)["a"].tolist() == [2.0]
    assert finish(before)["a"].tolist() == [2.0]  # finishing leaves the state too
    assert first["a"].tolist() == [2.0]


def test_a_fresh_state_knows_nothing_of_an_earlier_round():
    aggregate((delta(100), 50, 1.0))
    assert aggregate((delta(1), 1, 1.0))["a"].tolist() == [1.0]


def test_memory_grows_with_no_client():
    state = RULE.init()
    for _ in range(3):
        state = add(state, delta(1, 2), 1, 1.0)
        assert [tensor.shape for tensor in state.tensors.values()] == [(2,)]
