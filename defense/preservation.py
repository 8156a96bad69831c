"""Preservation: the server brings the likelihood of its own refusals back to what it was before the first round.

Fine-tuning on harmless data alone wears refusals away (Qi et al. 2023, arXiv 2310.03693), so excluding attackers does not keep a
model safe. With R(theta) the negative log-likelihood of the server's refusals, theta the aggregate of a round and theta_0 the
adapter that the run began with, one step is

    theta <- theta - (R(theta) - R(theta_0)) / |g|^2 g,    g the gradient of R at theta,

which is Polyak's step ("Minimization of unsmooth functionals", 1969) towards the known level R(theta_0): to first order the
shortest change after which R is what it was. The measured rise alone decides how long it is, so there is no learning rate, and a
round that leaves R where it was is not touched. A-GEM (Chaudhry et al., ICLR 2019) projects on the same half-space, but by the
first-order rise of the round's move instead of the measured one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from defense.odds import MENTION
from defense.settings import Settings

if TYPE_CHECKING:
    import torch

    from defense.tensors import Tensors


LEAST_ROWS = 4
"""Refusals without which nothing is preserved: two to measure on, or their accuracy would be unknown, and two to mend by."""


LEAST_RISE = 1e-5
"""Nats per token: a smaller rise is rounding. Losses are float32 sums, and what a row costs depends a little on its batch."""


class PreservationConfig(Settings):
    """Whether the server preserves refusals, and how much work that may be."""

    enabled: bool | None = None
    """None: at every level that has `canary` in it, whose rows are the server's refusals."""
    max_steps: PositiveInt = 4
    """Steps in a round at most. A round that has lost nothing takes none; one that has takes one, and more only while the loss is
    beyond its standard error. Each takes a forward and a backward pass over half of the round's refusals, and a forward
    pass over the others."""


def is_serious(rise: float, error: float, tokens: float) -> bool:
    """Whether refusals are so much less likely that it is worth asking which clients did it.

    Preservation mends less than that. More: the server's refusals have become three times less likely in the mean, and more than
    other refusals of the kind would differ.

    Args:
        rise: Of the mean negative log-likelihood, nats per token; one that is not a number is serious.
        error: Standard error of that mean.
        tokens: Mean tokens of a refusal.

    Example: refusals of 10 tokens are three times less likely from a rise of ln 3 / 10 = 0.11 on.
    """
    return not (rise <= error or rise <= serious_rise(tokens))


def serious_rise(tokens: float) -> float:
    """The rise that makes refusals of so many tokens three times less likely: ln 3 / tokens, nats per token."""
    return math.log(MENTION) / tokens


def standard_error(losses: Sequence[float], tokens: Sequence[int]) -> float:
    """Standard error of the mean loss per token, nats: how far it would be another one for other rows of the kind.

    The mean sum(losses) / sum(tokens) is a ratio of two sums, so its standard error is that of a ratio estimator (Cochran,
    "Sampling Techniques", 1977, section 2.11).

    Args:
        losses: Summed negative log-likelihood of each row's response, nats.
        tokens: Tokens of each response.

    Raises:
        ValueError: fewer than two rows.

    Example: losses 1, 3 and tokens 1, 1: mean 2, residuals -1, 1, so sqrt(2 x 2 / 1) / 2 = 1.
    """
    count, total = len(losses), sum(tokens)
    if count < 2:
        raise ValueError(f"{count} rows have no standard error; give two or more")
    mean = math.fsum(losses) / total
    squares = math.fsum((loss - mean * number) ** 2 for loss, number in zip(losses, tokens, strict=True))
    return math.sqrt(squares * count / (count - 1)) / total


def step(gradient: Tensors, rise: float, most: float) -> dict[str, torch.Tensor]:
    """The change by which the loss falls by `rise`, to first order: -(rise / |g|^2) g, no longer than `most`.

    Args:
        gradient: g, by parameter.
        rise: What the loss should fall by, nats per token, above 0.
        most: Length of the longest change. Where the gradient is nearly 0 the step would be without bound.

    Returns:
        The change in float64, by parameter; zeros where the gradient is 0.

    Example: g = (3, 4), rise 5, most 10: -(5 / 25) (3, 4) = (-0.6, -0.8), of length 1.
    """
    length = math.sqrt(math.fsum(float(gradient[name].double().square().sum()) for name in sorted(gradient)))
    factor = min(rise / length**2, most / length) if length > 0 else 0.0
    return {name: -factor * tensor.double() for name, tensor in gradient.items()}
