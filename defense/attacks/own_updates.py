"""Attacks that each attacker makes for itself, on its own honest update. Pure; what is random comes from a given generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from defense.attacks.config import AttackConfig, AttackName
from defense.averaging.pairs import lora_pairs
from defense.tensors import Tensors

_HALVINGS = 8


def scaled(delta: Tensors, factor: float) -> dict[str, torch.Tensor]:
    """The update times a factor.

    Model replacement (Bagdasaryan et al., AISTATS 2020, arXiv 1807.00459) multiplies a poisoned update so that it survives
    averaging; by n / m it would replace the average. Sign flipping (Li et al., "RSA", AAAI 2019, arXiv 1811.03761) sends an
    honest update times a negative factor, here -1, so that its norm is that of an honest one.
    """
    return {name: tensor * factor for name, tensor in delta.items()}


def gaussian(delta: Tensors, factor: float, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Noise whose expected squared norm is (factor x norm)^2 in each tensor; tensors that did not move stay.

    The Gaussian attack (Blanchard et al., NeurIPS 2017, arXiv 1703.02757, experiments). They draw from a wide Gaussian; here the
    noise has the norm of an honest update in each tensor, so that no bound on norms shows it.
    """
    return {name: _normal(delta[name].shape, rng) * (factor * _rms(delta[name])) for name in sorted(delta)}


def disguise(shapes: Mapping[str, tuple[int, ...]], noise: float, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """A free rider's delta: noise of one standard deviation in every value.

    A free rider sends back the adapter that it was sent, disguised by a little noise (Lin, Du and Liu 2019, arXiv 1911.12560;
    Fraboni, Vidal and Lorenzi, AISTATS 2021, arXiv 2006.11901).
    """
    return {name: _normal(shapes[name], rng) * noise for name in sorted(shapes)}


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape)))


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.double().norm()) / math.sqrt(tensor.numel())


def turned(state: Tensors, share: float) -> dict[str, torch.Tensor]:
    """An adapter with the sign of the first `share` of the ranks turned in A (r, in) and B (out, r).

    Gauge (docs/method.md section 8): the factors of a LoRA module are known up to an invertible matrix, B A = (B M)(M^-1 A). The
    product, and with it all behaviour that a client can be judged by, stays as it was, while averaging A and B apart cancels the
    turned ranks. The first ranks are turned, so that attackers that do not talk to each other agree. Where A is frozen (FFA-LoRA)
    such an update is not admitted.
    """
    new = dict(state)
    for pair in lora_pairs(state):
        count = math.ceil(share * state[pair.a].shape[0])
        new[pair.a], new[pair.b] = state[pair.a].clone(), state[pair.b].clone()
        new[pair.a][:count] *= -1
        new[pair.b][:, :count] *= -1
    return new


def longest(rise: Callable[[float], float], allowed: float) -> float:
    """The largest factor in [0, 1] found whose rise is at most `allowed`, if the rise grows with the factor.

    Ratchet (docs/method.md section 8): a canary that compares with the current adapter can be outlasted a little every round. The
    attacker shortens its malicious update until its own refusals suffer no more than it allows itself.
    """
    if rise(1.0) <= allowed:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rise(middle) <= allowed else (low, middle)
    return low


def _gauge(delta: Tensors, start: Tensors, share: float) -> dict[str, torch.Tensor]:
    state = {name: start[name] + tensor for name, tensor in delta.items()}
    return {name: tensor - start[name] for name, tensor in turned(state, share).items()}


Change = Callable[[Tensors, Tensors, AttackConfig, np.random.Generator], dict[str, torch.Tensor]]
"""(delta, global adapter, settings, generator) -> the delta that is sent."""

CHANGES: dict[str, Change] = {
    "scaling": lambda delta, _start, config, _rng: scaled(delta, config.scaling.factor),
    "sign_flip": lambda delta, _start, _config, _rng: scaled(delta, -1.0),
    "gaussian": lambda delta, _start, config, rng: gaussian(delta, config.gaussian.factor, rng),
    "gauge": lambda delta, start, config, _rng: _gauge(delta, start, config.gauge.share),
}
"""The attacks that need the honest update and nothing else."""


def change(
    name: AttackName, delta: Tensors, start: Tensors, config: AttackConfig, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """What an attacker sends in place of its honest `delta` to the global adapter `start`, in float64."""
    exact, base = ({key: tensor.double() for key, tensor in given.items()} for given in (delta, start))
    sent = CHANGES[name](exact, base, config, rng)
    return clipped(sent, [exact]) if config.clip else sent


def clipped(delta: Tensors, honest: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """The delta with every value cut to the largest absolute value in the honest deltas."""
    most = max(float(tensor.abs().max()) for given in honest for tensor in given.values())
    return {name: tensor.clamp(-most, most) for name, tensor in delta.items()}
