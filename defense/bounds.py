"""Bounds of signals, from the server's own labelled reference clients of this model, LoRA and learning rate.

Nothing here is tuned: the honest references give the bound, the unsafe ones say whether the signal separates at all
(docs/method.md section 8, "Bounds"). No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

MIN_REFERENCES = 3
"""Honest references without which there is no bound: with two, one difference alone would say how far they spread."""
_RESOLUTION = 2**-11.5
"""Least relative standard deviation: the root of float32's resolution, 3.5e-4. Every value comes of sums over many float32
products, whose rounding stays far below half of its digits; so no bound is so tight that rounding alone would exceed it."""
_EDGE = 1e-12
"""Probabilities and cosines are kept so far from where their scale is infinite."""

Side = Literal["above", "below"]
HalfWay = Literal["from median", "from limit"]
"""`from median`: of the honest references, where it is not known how far the unsafe ones spread either. `from limit`: of the
honest ones, where what is to be excluded hardly spreads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A rising map to a scale without ends, on which a normal distribution is a sensible assumption, and back."""

    forward: Callable[[float], float]
    back: Callable[[float], float]


def _logit(p: float) -> float:
    p = min(max(p, _EDGE), 1 - _EDGE)
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


PLAIN = Scale(forward=float, back=float)
LOGIT = Scale(forward=_logit, back=_sigmoid)
"""For probabilities."""
FISHER = Scale(forward=lambda r: math.atanh(min(max(r, _EDGE - 1), 1 - _EDGE)), back=math.tanh)
"""Fisher's z, for cosines (Fisher, "Frequency distribution of the values of the correlation coefficient", 1915)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """A signal's values of reference clients, in order of client id."""

    benign: tuple[float, ...]
    unsafe: tuple[float, ...]
    """Of what the signal is there to exclude."""
    origin: str
    """Where the clients trained, such as "round 3"."""
    fitted: bool = False
    """Whether what measured them was fitted to them, so that they are more alike than others."""

    @property
    def fault(self) -> str | None:
        """Why no bound follows from them; None: one does."""
        if len(self.benign) < MIN_REFERENCES:
            return f"{len(self.benign)} honest reference clients of {self.origin} are fewer than the {MIN_REFERENCES} it takes"
        if not all(map(math.isfinite, (*self.benign, *self.unsafe))):
            return f"a value of the reference clients of {self.origin} is not finite"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A signal's bound in one round. A value at or beyond it weighs nothing, and so does one that is not finite."""

    state: Literal["in force", "abstains", "missing"]
    """`abstains`: the signal does not separate, and excludes nobody whose value is finite. `missing`: nothing gives the bound, so
    nobody passes."""
    why: str
    """Where the bound comes from, or why there is none."""
    edge: float = 0.0
    """On the scale, where values at its ends are compared as the bound was made; no matter where it is missing."""
    side: Side = "above"
    scale: Scale = PLAIN
    honest: float | None = None
    """On the scale, the limit up to which a value is one of an honest client; None: no reference says."""

    @property
    def limit(self) -> float | None:
        """The bound in the unit of the signal; None where it is missing."""
        return None if self.state == "missing" else self.scale.back(self.edge)

    def excludes(self, value: float) -> bool:
        """Whether a client of this value weighs nothing."""
        if self.state == "missing" or not math.isfinite(value):
            return True
        return self.state == "in force" and self.is_beyond(value)

    def is_beyond(self, value: float) -> bool:
        """Whether a value lies at or beyond the bound."""
        placed = self.scale.forward(value)
        return not (placed < self.edge if self.side == "above" else placed > self.edge)

    def sentence(self, name: str, value: float) -> str:
        """Why a client of this value, by this name, is excluded."""
        if self.limit is None:
            return f"{name} has no bound: {self.why}"
        if not math.isfinite(value):
            return f"{name} is {value}: it could not be measured"
        return f"{name} {value:.3g} is at or {self.side} {self.limit:.3g}, {self.why}"


def prediction_bound(values: Sequence[float], rate: float) -> float:
    """The bound that one further value of the same normal distribution exceeds with probability `rate`.

    mean + t s sqrt(1 + 1/n) with t the (1 - rate) quantile of Student's t with n - 1 degrees of freedom and s the sample's
    standard deviation: the one-sided prediction limit, exact for normal values (Hahn, "Factors for calculating two-sided
    prediction intervals for samples from a normal distribution", JASA 64, 1969; Hahn and Meeker, Statistical Intervals, 1991,
    chapter 4). `rate` counts over the draw of the values too: one sample gives a bound that is exceeded more often, another less.

    Heavier tails cost false positives: of values that follow Student's t with 5 degrees of freedom, 0.0064 exceed a bound of rate
    0.0025 from n = 8, and 0.0164 one of rate 0.01 (simulated, 2 million bounds each).

    Args:
        values: At least 3, finite.
        rate: In (0, 0.5).

    Raises:
        ValueError: fewer values, or one that is not finite.

    Example: of 1, 2, 3 at rate 0.025, t = 4.303: 2 + 4.303 x 1 x sqrt(4 / 3) = 6.968.
    """
    from scipy.special import stdtrit  # takes a tenth of a second to import, and the command line reads this module

    number = len(values)
    if number < MIN_REFERENCES or not all(map(math.isfinite, values)):
        raise ValueError(f"a bound takes at least {MIN_REFERENCES} finite values, got {list(values)[:8]}")
    mean, spread = _spread(values)
    return mean - float(stdtrit(number - 1, rate)) * spread * math.sqrt(1 + 1 / number)


def explicit_bound(limit: float, key: str, *, side: Side, scale: Scale) -> Bound:
    """The bound that a key sets."""
    return Bound(state="in force", why=f"which {key} sets", edge=scale.forward(limit), side=side, scale=scale)


def reference_bound(
    values: ReferenceValues,
    rate: float,
    *,
    side: Side,
    scale: Scale,
    half_way: HalfWay | None = None,
    least: float | None = None,
) -> Bound:
    """The bound that references give.

    It is the prediction limit of the honest ones, and abstains where fewer than half of the unsafe ones lie at or beyond it. Or
    it lies half way to the median of the unsafe ones, on the scale, so that it has margin on both sides: a few references do not
    show how much clients may differ from them. Then it abstains where an honest one lies at or beyond it too.

    Args:
        rate: With what probability a further honest client may lie beyond the limit.
        half_way: From where; None, or without unsafe ones: the limit.
        least: Values that were fitted make no bound below this: they say little of how other clients spread.
    """
    if values.fault is not None:
        return Bound(state="missing", why=values.fault)
    sign = 1 if side == "above" else -1
    honest, unsafe = ([sign * scale.forward(value) for value in own] for own in (values.benign, values.unsafe))
    limit, number = prediction_bound(honest, rate), f"{len(honest)} honest reference clients of {values.origin}"
    edge, clear, why = limit, limit, f"which a client like the {number} lies beyond with probability {rate:.2g}"
    if half_way and unsafe:
        edge = ((limit if half_way == "from limit" else median(honest)) + median(unsafe)) / 2
        clear, tail = min(limit, (median(honest) + edge) / 2), exceeding(honest, edge)
        why = f"half way from the {number} to the unsafe; one like the honest lies beyond with probability {tail:.2g}"
        if values.fitted and least is not None and edge < scale.forward(least):
            edge, why = scale.forward(least), f"the least for a probe that was fitted to the {number}"
    bound = Bound(
        state="in force",
        why=why,
        edge=sign * edge,
        side=side,
        scale=scale,
        honest=None if values.fitted else sign * clear,
    )
    beyond, wrong = (sum(map(bound.is_beyond, own)) for own in (values.unsafe, values.benign))
    if 2 * beyond >= len(unsafe) > 0 and not (half_way and wrong):
        return bound
    why = f"{beyond} of {len(unsafe)} unsafe references lie {side} {bound.limit:.3g}, the bound of the {number}"
    return replace(bound, state="abstains", why=why + (f", and {wrong} of these" if wrong else ""))


def exceeding(values: Sequence[float], edge: float) -> float:
    """The probability that one further value of the same normal distribution lies above `edge`: the rate of which `edge` is the
    prediction bound (`prediction_bound`).

    Example: of 1, 2, 3 above 6.968: 0.025.
    """
    from scipy.special import stdtr

    mean, spread = _spread(values)
    return float(stdtr(len(values) - 1, -(edge - mean) / (spread * math.sqrt(1 + 1 / len(values)))))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample; the latter at least what rounding explains."""
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, max(spread, _RESOLUTION * max(1.0, abs(mean)))
