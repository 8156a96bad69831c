"""95 % intervals of shares that are averaged over seeds and prompts, and of the difference between two of them.

Every seed is asked the same prompts, so the two are crossed: a mean over them is uncertain because other seeds would train
other adapters, and because other prompts would be harder or easier. The variance used here is the sum of both clusterings'
variances, as in two-way clustering (Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2), section 2) without subtracting
their intersection's: never negative, and at most twice as large where neither seeds nor prompts differ. With one seed only the
prompts can speak. Degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2(6)): three seeds that differ make a wide
interval, three that agree do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_LEVEL = 0.95
_Z = float(stats.norm.ppf((1 + _LEVEL) / 2))

Strata = Sequence[np.ndarray]
"""An array (seeds, prompts) for each stratum; the mean is the plain one over the strata's means."""


@dataclass(frozen=True, slots=True)
class _Mean:
    value: float
    variance: float
    freedom: float
    """Degrees of freedom of the variance."""
    num_prompts: int

    @property
    def quantile(self) -> float:
        """Of Student's t, for a two-sided interval."""
        return float(stats.t.ppf((1 + _LEVEL) / 2, self.freedom))


def share_interval(strata: Strata) -> tuple[float, float]:
    """Wilson's interval for a mean of outcomes 0 and 1, at the number of independent prompts that would have this variance.

    That number is corrected for the degrees of freedom (Korn and Graubard 1998, Survey Methodology 24(2), section 2, who use it
    with Clopper and Pearson's interval), and no more than there are prompts: further seeds are no further prompts. So a share of
    exactly 0 or 1 has an interval too.
    """
    mean = _mean(strata)
    effective = float(mean.num_prompts)
    if mean.variance > 0:
        effective = min(effective, mean.value * (1 - mean.value) / mean.variance * (_Z / mean.quantile) ** 2)
    return _wilson(mean.value, effective)


def difference_interval(strata: Strata, others: Strata) -> tuple[float, float]:
    """Student's interval for the difference of two means, paired by seed and prompt.

    Half a prompt that changed in each direction is added to the variance, as Agresti and Min (2005, Statistics in Medicine
    24(5)) add half a pair to each cell of the table: so two runs that agree on every prompt have an interval too.

    Raises:
        ValueError: the two do not have the same seeds and prompts.
    """
    if [part.shape for part in strata] != [part.shape for part in others]:
        raise ValueError("only the same prompts at the same seeds can be paired")
    mean = _mean([part.astype(float) - other for part, other in zip(strata, others, strict=True)], extra=1.0)
    reach = mean.quantile * math.sqrt(mean.variance)
    return mean.value - reach, mean.value + reach


def _mean(strata: Strata, extra: float = 0.0) -> _Mean:
    """Mean and its variance; `extra`: prompts that changed, on top of those that did."""
    num_seeds, num_prompts = strata[0].shape[0], sum(part.shape[1] for part in strata)
    by_seed = np.mean([part.mean(axis=1) for part in strata], axis=0)
    of_seeds = _variance(by_seed)
    of_prompts = sum(_variance(part.mean(axis=0)) for part in strata) / len(strata) ** 2 + extra / num_prompts**2
    freedoms = [(of_seeds, num_seeds - 1), (of_prompts, num_prompts - len(strata))]
    spent = sum(part**2 / freedom for part, freedom in freedoms if part > 0 and freedom > 0)
    variance = of_seeds + of_prompts
    return _Mean(float(by_seed.mean()), variance, variance**2 / spent if spent else math.inf, num_prompts)


def _variance(values: np.ndarray) -> float:
    """Of the mean of independent values; 0 for a single one."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's score interval (1927, JASA 22) for `count` trials, which need not be whole."""
    pull = _Z**2 / count
    centre = (share + pull / 2) / (1 + pull)
    reach = math.sqrt(share * (1 - share) * pull + pull**2 / 4) / (1 + pull)
    return max(0.0, centre - reach), min(1.0, centre + reach)
