"""SCAFFOLD's arithmetic by hand, and its purpose: clients with different losses do not drift apart."""

import pytest
import torch

from actors.scaffold import ControlVariates, Correction
from actors.wire import decode_tensors

SHAPES = {"A": (2,), "B": (1,)}


def gradient(a: list[float], b: float) -> dict[str, torch.Tensor]:
    return {"A": torch.tensor(a), "B": torch.tensor([b])}


def parameters(**values: list[float]) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.tensor(value)) for name, value in values.items()}


def values(tensors) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in sorted(tensors.items())}


def step(correction: Correction, **gradients: list[float]) -> dict[str, list[float]]:
    """The corrected gradients."""
    given = {name: torch.tensor(value) for name, value in gradients.items()}
    correction.apply(given)
    return values(given)


def test_gradients_are_corrected_and_their_mean_is_that_before_correction():
    correction = Correction(gradient([0.5, -1.0], 2.0))
    correction.begin(parameters(A=[0.0, 0.0], B=[0.0]))
    assert step(correction, A=[1.0, 2.0], B=[3.0]) == {"A": [1.5, 1.0], "B": [5.0]}
    assert step(correction, A=[3.0, -1.0], B=[0.0]) == {"A": [3.5, -2.0], "B": [2.0]}
    assert values(correction.control_variate()) == {"A": [2.0, 0.5], "B": [1.5]}
    assert {tensor.dtype for tensor in correction.control_variate().values()} == {torch.float32}


def test_without_any_training_the_control_variate_is_zero():
    assert values(Correction(gradient([5.0, 5.0], 5.0)).control_variate()) == {"A": [0.0, 0.0], "B": [0.0]}


def test_a_second_training_forgets_the_first_but_for_what_it_does_not_train():
    correction = Correction(gradient([0.0, 0.0], 0.0))
    correction.begin(parameters(A=[0.0, 0.0], B=[0.0]))
    step(correction, A=[1.0, 1.0], B=[4.0])
    correction.begin(parameters(A=[0.0, 0.0]))
    step(correction, A=[8.0, 2.0])
    assert values(correction.control_variate()) == {"A": [8.0, 2.0], "B": [4.0]}


def test_a_parameter_without_a_correction_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the correction has no B, which is trained"):
        Correction({"A": torch.zeros(2)}).begin(parameters(A=[0.0, 0.0], B=[0.0]))


def test_a_round_by_hand():
    # N = 4. a and b send; b weighs a half. c = (1/4)([4, 0] + [1, -2]) = [1.25, -0.5]; b: (1/4)(8 + 0.5 * 4) = 2.5.
    one = ControlVariates(SHAPES).moved({"a": (1.0, gradient([4.0, 0.0], 8.0)), "b": (0.5, gradient([2.0, -4.0], 4.0))})
    mean = one.mean(4)
    assert values(mean) == {"A": [1.25, -0.5], "B": [2.5]}
    assert values(one.difference("a", mean)) == {"A": [-2.75, -0.5], "B": [-5.5]}
    assert values(one.difference("b", mean)) == {"A": [0.25, 1.5], "B": [0.5]}
    assert values(one.difference("stranger", mean)) == values(mean)
    # b again, at weight 0.25: from [1, -2] a quarter of the way to [9, 2]; a keeps its own.
    two = one.moved({"b": (0.25, gradient([9.0, 2.0], 2.0))})
    assert values(two.own["b"]) == {"A": [3.0, -1.0], "B": [2.0]}
    assert values(two.own["a"]) == {"A": [4.0, 0.0], "B": [8.0]}
    # As in the paper: c + (1/N) sum w (c_i+ - c_i) = [1.25, -0.5] + (1/4) 0.25 [8, 4].
    assert values(two.mean(4)) == {"A": [1.75, -0.25], "B": [2.5]}


def test_the_order_of_clients_does_not_matter_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    received = {
        f"c{i}": (
            0.3 + i / 50,
            {name: torch.randn(shape, generator=generator) * (1e10 if i == 0 else 1) for name, shape in SHAPES.items()},
        )
        for i in range(6)
    }
    one = ControlVariates(SHAPES).moved(received)
    other = ControlVariates(SHAPES)
    for client_id in reversed(received):
        other = other.moved({client_id: received[client_id]})
    assert values(one.mean(7)) == values(other.mean(7))
    assert one.encode() == other.encode()


def test_control_variates_come_back_to_the_bit_whatever_the_ids():
    made = ControlVariates(SHAPES).moved({"site/7": (1 / 3, gradient([0.1, 1e-30], 7.0)), "b": (1.0, gradient([-0.0, 2.0], 1.0))})
    again = ControlVariates(SHAPES).decoded(made.encode())
    assert set(again.own) == {"site/7", "b"}
    assert again.encode() == made.encode()
    assert values(again.mean(2)) == values(made.mean(2))
    assert set(decode_tensors(made.encode())) == {"site/7/A", "site/7/B", "b/A", "b/B"}


def test_none_are_no_bytes():
    assert ControlVariates(SHAPES).encode() == b""
    assert ControlVariates(SHAPES).decoded(b"") == ControlVariates(SHAPES)


def test_no_client_is_in_a_mean_for_more_than_one_nth_of_the_largest_gradient():
    held = ControlVariates(SHAPES)
    for _ in range(30):
        held = held.moved({"liar": (0.7, gradient([3.0, 4.0], 0.0))})
    assert float(held.mean(10)["A"].norm()) <= 0.5


def settled(scaffold: bool) -> float:
    """Where federated gradient descent ends for the losses 2 (x - 1)^2 and (x + 2)^2 / 4, whose sum is least at x = 2/3.

    Six local steps of 0.1 a round; the mean of both clients is the next start.
    """
    curvatures, minima = {"steep": 4.0, "flat": 0.5}, {"steep": 1.0, "flat": -2.0}
    held, x = ControlVariates({"x": (1,)}), torch.tensor([5.0])
    for _ in range(200):
        mean, ends, received = held.mean(2), [], {}
        for client in curvatures:
            parameter = torch.nn.Parameter(x.clone())
            correction = Correction(held.difference(client, mean) if scaffold else {"x": torch.zeros(1)})
            correction.begin({"x": parameter})
            for _ in range(6):
                slope = curvatures[client] * (parameter.detach() - minima[client])
                correction.apply({"x": slope})
                parameter.data -= 0.1 * slope
            ends.append(parameter.detach())
            received[client] = (1.0, correction.control_variate())
        held, x = held.moved(received), sum(ends) / 2
    return float(x)


def test_corrected_clients_settle_at_the_minimum_of_the_whole_and_uncorrected_ones_beside_it():
    # Uncorrected: each round takes x the share p = 1 - (1 - 0.1 a)^6 of the way to the client's own minimum, so it settles at
    # (p_1 - 2 p_2) / (p_1 + p_2).
    steep, flat = 1 - 0.6**6, 1 - 0.95**6
    assert settled(scaffold=False) == pytest.approx((steep - 2 * flat) / (steep + flat), abs=1e-5)
    assert settled(scaffold=False) < 0.5
    assert settled(scaffold=True) == pytest.approx(2 / 3, abs=1e-4)
