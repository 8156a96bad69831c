"""defense/attacks/own_updates.py: scaling, sign flip, noise, gauge, and the step of a ratchet."""

import numpy as np
import torch
from pytest import approx, mark

from defense.attacks.config import AttackConfig
from defense.attacks.own_updates import change, disguise, longest, turned

A, B = "m.layers.0.q.lora_A.weight", "m.layers.0.q.lora_B.weight"


def state(seed: int, rank: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {A: torch.randn(rank, 5, generator=generator), B: torch.randn(6, rank, generator=generator)}


def changed(name: str, delta, start=None, seed: int = 0, **config):
    start = start or {key: torch.zeros_like(tensor) for key, tensor in delta.items()}
    return change(name, delta, start, AttackConfig.model_validate(config), np.random.default_rng(seed))


def test_scaling_multiplies_and_a_sign_flip_is_scaling_by_minus_1():
    delta = {A: torch.tensor([[1.0, -2.0]]), B: torch.tensor([[0.5]])}
    scaled, flipped = changed("scaling", delta, scaling={"factor": 5}), changed("sign_flip", delta)
    assert scaled[A].tolist() == [[5.0, -10.0]]
    assert scaled[B].tolist() == [[2.5]]
    assert flipped[A].tolist() == [[-1.0, 2.0]]


def test_a_clipped_update_moves_no_value_farther_than_the_honest_one_moved_any():
    delta = {A: torch.tensor([[1.0, -2.0]]), B: torch.tensor([[0.5]])}
    clipped = changed("scaling", delta, scaling={"factor": 5}, clip=True)
    assert clipped[A].tolist() == [[2.0, -2.0]]
    assert clipped[B].tolist() == [[2.0]]


def test_gaussian_noise_has_the_norm_of_the_update_in_each_tensor():
    delta = {A: torch.full((100, 100), 0.3), B: torch.zeros(50, 50)}
    noise = changed("gaussian", delta)
    assert float(noise[A].norm()) == approx(30.0, rel=0.05)
    assert not noise[B].any()
    assert torch.equal(changed("gaussian", delta)[A], noise[A])
    assert not torch.equal(changed("gaussian", delta, seed=1)[A], noise[A])


def test_a_free_riders_disguise_has_the_standard_deviation_asked_for():
    noise = disguise({A: (200, 200)}, 0.001, np.random.default_rng(0))
    assert float(noise[A].std()) == approx(0.001, rel=0.02)


@mark.parametrize(("share", "count"), [(0.5, 2), (0.3, 2), (1.0, 4)])
def test_gauge_keeps_the_product_and_turns_the_factors(share, count):
    before = state(0)
    after = turned(before, share)
    assert torch.allclose(after[B] @ after[A], before[B] @ before[A], atol=1e-5)
    assert torch.equal(after[A][:count], -before[A][:count])
    assert torch.equal(after[B][:, count:], before[B][:, count:])
    # Averaged with an honest client's factors, the turned ranks vanish from both.
    assert not ((after[A] + before[A]) / 2)[:count].any()
    assert torch.equal(before[A], state(0)[A])  # nothing is changed in place


def test_gauge_turns_the_trained_adapter_and_not_its_delta():
    start, trained = state(1), state(2)
    delta = {name: trained[name].double() - start[name].double() for name in start}
    sent = changed("gauge", delta, start)
    after = {name: start[name].double() + sent[name] for name in start}
    product = trained[B].double() @ trained[A].double()
    assert torch.allclose(after[B] @ after[A], product, atol=1e-12)
    assert torch.allclose(after[A][:2], -trained[A][:2].double())


def test_a_ratchet_takes_the_longest_step_that_it_allows_itself():
    assert longest(lambda s: s * s, 0.25) == approx(0.5, abs=1 / 128)
    assert longest(lambda s: s * s, 0.25) <= 0.5
    assert longest(lambda s: s / 10, 0.25) == 1.0
