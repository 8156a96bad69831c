"""Attacks that all attackers of a round make together from their honest updates, of which they know no benign client's.

Pure, in float64. Shapes: M malicious clients, D values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from defense.attacks.config import AttackConfig, AttackName, largest_z
from defense.attacks.own_updates import clipped
from defense.tensors import Tensors, from_row, rows


def alie(rows_MD: torch.Tensor, z: float) -> torch.Tensor:
    """A Little Is Enough (Baruch, Baruch and Goldberg, NeurIPS 2019, arXiv 1902.06156, section 3): mean - z std, (D,).

    Of n clients, m malicious, s = floor(n/2 + 1) - m honest ones are needed for a majority. The paper's z is
    Phi^-1((n - m - s) / (n - m)): even that far out, s honest clients are still expected to lie farther. Mean and standard
    deviation, that of the population, are estimated on the attackers' own honest updates.
    """
    return rows_MD.mean(0) - z * rows_MD.std(0, correction=0)


def ipm(rows_MD: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Inner product manipulation (Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019, arXiv 1903.03936): -epsilon mean, (D,).

    Where epsilon is large enough, the inner product of the aggregate with the true mean becomes negative.
    """
    return -epsilon * rows_MD.mean(0)


# Min-Max and Min-Sum (Shejwalkar and Houmansadr, NDSS 2021, "Manipulating the Byzantine", section IV.D; the aggregation rule
# unknown). Every attacker sends mean + gamma p, p one of three directions against the mean, with the largest gamma that hides it:
#
#     Min-Max   max_i |mean + gamma p - x_i|       <=  max_ij |x_i - x_j|
#     Min-Sum   sum_i |mean + gamma p - x_i|^2     <=  max_i sum_j |x_i - x_j|^2
#
# The paper finds gamma by halving steps. Both bounds are quadratic in gamma, so here it is the root.

_DIRECTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "std": lambda rows_MD: -rows_MD.std(0, correction=0),
    "unit": lambda rows_MD: -rows_MD.mean(0) / (rows_MD.mean(0).norm() or 1.0),
    "sign": lambda rows_MD: -rows_MD.mean(0).sign(),
}


def min_max(rows_MD: torch.Tensor, perturbation: str) -> torch.Tensor:
    """The farthest point along p that is no farther from any row than two rows are apart, (D,)."""
    mean_D, p_D = rows_MD.mean(0), _DIRECTIONS[perturbation](rows_MD)
    away_MD, farthest = mean_D - rows_MD, float(_squared_distances(rows_MD).max())
    roots = [_root(float(p_D @ p_D), 2 * float(p_D @ row_D), float(row_D @ row_D) - farthest) for row_D in away_MD]
    return mean_D + min(roots) * p_D


def min_sum(rows_MD: torch.Tensor, perturbation: str) -> torch.Tensor:
    """The farthest point along p whose squared distances sum to no more than those of the row with the largest sum, (D,)."""
    mean_D, p_D = rows_MD.mean(0), _DIRECTIONS[perturbation](rows_MD)
    most = float(_squared_distances(rows_MD).sum(1).max())
    around = float((mean_D - rows_MD).square().sum())  # the linear term is 0: the differences from a mean sum to 0
    return mean_D + _root(len(rows_MD) * float(p_D @ p_D), 0.0, around - most) * p_D


def _squared_distances(rows_MD: torch.Tensor) -> torch.Tensor:
    return torch.stack([(rows_MD - row_D).square().sum(1) for row_D in rows_MD])


def _root(a: float, b: float, c: float) -> float:
    """The larger root of a x^2 + b x + c with c <= 0, hence at least 0; 0 without a direction."""
    if a <= 0:
        return 0.0
    return max(0.0, (-b + math.sqrt(max(0.0, b * b - 4 * a * c))) / (2 * a))


def mimic(rows_MD: torch.Tensor) -> torch.Tensor:
    """The row farthest from the mean along the first principal direction, (D,); of equal ones the first.

    Mimic (Karimireddy, He and Jaggi, ICLR 2022, arXiv 2006.09365): all attackers repeat one honest client's update, so that the
    aggregate leans towards it. The paper follows a running estimate of the direction; here it is the round's own, and the client
    is one of the attackers.
    """
    centred_MD = rows_MD - rows_MD.mean(0)
    _, vectors_MM = torch.linalg.eigh(centred_MD @ centred_MD.T)
    along_M = vectors_MM[:, -1].abs()  # a row's part along the direction, up to one common factor
    return rows_MD[int((along_M >= along_M.max() - 1e-9).to(torch.int8).argmax())]


def sybil(rows_MD: torch.Tensor) -> torch.Tensor:
    """Sybils (Fung, Yoon and Beschastnikh, RAID 2020, arXiv 1808.04866): one attacker behind several clients, which all send the
    mean of the updates that their unsafe data taught them, (D,)."""
    return rows_MD.mean(0)


def exclusion(rows_MD: torch.Tensor, round_index: int, targets: int) -> torch.Tensor:
    """Minus the mean direction of the rows whose turn it is, as long as the rows are in the mean, (D,).

    Ours, against levels that compare clients by direction, where each has a task of its own. A row is what an attacker learned of
    one family. What all attackers send turns the mean of the others away from the honest client of that family, while it lifts
    their own cosines: they agree with each other. Of n clients let m be attackers, and let honest updates be at right angles. The
    turned client's cosine to the mean of the others is -m / sqrt(m^2 + n - m - 1), an attacker's with k = m - 2 is
    k / sqrt(k^2 + n - m - 1).
    """
    units_MD = rows_MD / rows_MD.norm(dim=1, keepdim=True).clamp(min=1e-12)
    turn = [(round_index * targets + offset) % len(rows_MD) for offset in range(min(targets, len(rows_MD)))]
    direction_D = -units_MD[turn].sum(0)
    return direction_D / (direction_D.norm() or 1.0) * rows_MD.norm(dim=1).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """The round in which attackers collude."""

    num_clients: int
    """Clients of the round, attackers included."""
    round_index: int = 0
    """Counts from 0."""


Plot = Callable[[torch.Tensor, Occasion, AttackConfig], torch.Tensor]
"""(the attackers' honest deltas (M, D), the round, settings) -> the delta (D,) that all of them send."""

PLOTS: dict[str, Plot] = {
    "alie": lambda rows_MD, now, config: alie(
        rows_MD, largest_z(now.num_clients, len(rows_MD)) if config.alie.z is None else config.alie.z
    ),
    "ipm": lambda rows_MD, _now, config: ipm(rows_MD, config.ipm.epsilon),
    "min_max": lambda rows_MD, _now, config: min_max(rows_MD, config.min_max.perturbation),
    "min_sum": lambda rows_MD, _now, config: min_sum(rows_MD, config.min_max.perturbation),
    "mimic": lambda rows_MD, _now, _config: mimic(rows_MD),
    "sybil": lambda rows_MD, _now, _config: sybil(rows_MD),
    "exclusion": lambda rows_MD, now, config: exclusion(rows_MD, now.round_index, config.exclusion.targets),
}
"""The attacks that need the attackers' updates and nothing else."""


def collude(name: AttackName, deltas: Sequence[Tensors], now: Occasion, config: AttackConfig) -> dict[str, torch.Tensor]:
    """What every attacker sends, in float64.

    Args:
        deltas: The attackers' own deltas, in order of client id.
    """
    sent = from_row(PLOTS[name](rows(deltas), now, config), deltas[0])
    return clipped(sent, deltas) if config.clip else sent
