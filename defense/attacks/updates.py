"""The attacks on updates as two tables: of a client's own honest update, and of all the attackers' together.

Pure functions in float64; what is random comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from defense.attacks.alie import shifted
from defense.attacks.alie_distance import largest_z
from defense.attacks.config import AttackConfig, AttackName
from defense.attacks.gauge import turned
from defense.attacks.ipm import opposed
from defense.attacks.mimic import mimicked
from defense.attacks.min_max import min_max, min_sum
from defense.attacks.noise import gaussian
from defense.attacks.scaling import scaled
from defense.attacks.sybil import shared
from defense.attacks.vectors import Delta, rows, tensors

Change = Callable[[Delta, Delta, AttackConfig, np.random.Generator], Delta]
"""(delta, global adapter, settings, generator) -> the delta that is sent."""
Plot = Callable[[torch.Tensor, int, AttackConfig], torch.Tensor]
"""(the attackers' honest deltas (M, D), clients of the round, settings) -> the delta (D,) that all of them send."""


def _gauge(delta: Delta, start: Delta, config: AttackConfig, rng: np.random.Generator) -> Delta:  # noqa: ARG001
    state = {name: start[name] + tensor for name, tensor in delta.items()}
    return {name: tensor - start[name] for name, tensor in turned(state, config.gauge.share).items()}


CHANGES: dict[AttackName, Change] = {
    "scaling": lambda delta, _start, config, _rng: scaled(delta, config.scaling.factor),
    "sign_flip": lambda delta, _start, _config, _rng: scaled(delta, -1.0),
    "gaussian": lambda delta, _start, config, rng: gaussian(delta, config.gaussian.factor, rng),
    "gauge": _gauge,
}
"""Attacks that change a client's own update."""

PLOTS: dict[AttackName, Plot] = {
    "alie": lambda rows_MD, n, config: shifted(
        rows_MD, z=config.alie.z if config.alie.z is not None else largest_z(n, len(rows_MD))
    ),
    "ipm": lambda rows_MD, _n, config: opposed(rows_MD, epsilon=config.ipm.epsilon),
    "min_max": lambda rows_MD, _n, config: min_max(rows_MD, config.min_max),
    "min_sum": lambda rows_MD, _n, config: min_sum(rows_MD, config.min_max),
    "mimic": lambda rows_MD, _n, _config: mimicked(rows_MD),
    "sybil": lambda rows_MD, _n, _config: shared(rows_MD),
}
"""Colluding attacks."""


def change(
    name: AttackName,
    delta: Mapping[str, torch.Tensor],
    start: Mapping[str, torch.Tensor],
    config: AttackConfig,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """What an attacker sends in place of its honest `delta` to the global adapter `start`, in float64."""
    exact, base = ({key: tensor.double() for key, tensor in given.items()} for given in (delta, start))
    sent = dict(CHANGES[name](exact, base, config, rng))
    return clipped(sent, _farthest([exact])) if config.clip else sent


def collude(name: AttackName, deltas: Sequence[Delta], num_clients: int, config: AttackConfig) -> dict[str, torch.Tensor]:
    """What every attacker sends, in float64.

    Args:
        deltas: The attackers' own deltas, in order of client id.
        num_clients: Clients of the round, attackers included.
    """
    sent = tensors(PLOTS[name](rows(deltas), num_clients, config), deltas[0])
    return clipped(sent, _farthest(deltas)) if config.clip else sent


def clipped(delta: Delta, most: float) -> dict[str, torch.Tensor]:
    """The delta with every value cut to +-most."""
    return {name: tensor.clamp(-most, most) for name, tensor in delta.items()}


def _farthest(deltas: Sequence[Delta]) -> float:
    return max(float(tensor.abs().max()) for delta in deltas for tensor in delta.values())
