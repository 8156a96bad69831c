"""95 % intervals of shares that are averaged over seeds and prompts, and of the difference between two such shares.

Every seed answers the same prompts, so seeds and prompts are crossed. A mean over them is uncertain for two reasons: other seeds
would train other adapters, and other prompts would be harder or easier. The variance is the sum of both clusterings' variances,
as in two-way clustering (Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29(2), section 2), but without subtracting that of
their intersection. So it is never negative, and at most twice as large as needed where neither seeds nor prompts differ. With
one seed the variance is that of the prompts alone. Degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2(6)): three
seeds that differ make a wide interval, three that agree do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_LEVEL = 0.95
_Z = float(stats.norm.ppf((1 + _LEVEL) / 2))

Strata = Sequence[np.ndarray]
"""An array (seeds, prompts) for each stratum; the mean is the plain one over the strata's means."""


def share_interval(strata: Strata) -> tuple[float, float]:
    """Wilson's interval for a mean of outcomes 0 and 1, at the number of independent prompts that would have this variance.

    The number is corrected for the degrees of freedom, as Korn and Graubard (1998, Survey Methodology 24(2), section 2) do for
    Clopper and Pearson's interval. It is at most the number of prompts, because more seeds are not more prompts. So a share of
    exactly 0 or 1 has an interval too.
    """
    share, variance, quantile = _mean(strata)
    count = float(sum(part.shape[1] for part in strata))
    if variance > 0:
        count = min(count, share * (1 - share) / variance * (_Z / quantile) ** 2)
    pull = _Z**2 / count  # Wilson's score interval (1927, JASA 22) for `count` trials, which need not be whole.
    centre = (share + pull / 2) / (1 + pull)
    reach = math.sqrt(share * (1 - share) * pull + pull**2 / 4) / (1 + pull)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def difference_interval(strata: Strata, others: Strata) -> tuple[float, float]:
    """Student's interval for the difference of two means, paired by seed and prompt.

    The variance counts half a prompt more that changed in each direction, as Agresti and Min (2005, Statistics in Medicine 24(5))
    add half a pair to each cell of the table. So two runs that agree on every prompt have an interval too.

    Raises:
        ValueError: the two do not have the same seeds and prompts.
    """
    if [part.shape for part in strata] != [part.shape for part in others]:
        raise ValueError("only the same prompts at the same seeds can be paired")
    differences = [part.astype(float) - other for part, other in zip(strata, others, strict=True)]
    mean, variance, quantile = _mean(differences, extra=1.0)
    reach = quantile * math.sqrt(variance)
    return mean - reach, mean + reach


def _mean(strata: Strata, extra: float = 0.0) -> tuple[float, float, float]:
    """Mean, its variance, and Student's quantile for it; `extra`: prompts to count as changed beside those that did change."""
    num_seeds, num_prompts = strata[0].shape[0], sum(part.shape[1] for part in strata)
    by_seed = np.mean([part.mean(axis=1) for part in strata], axis=0)
    of_seeds = _variance(by_seed)
    of_prompts = sum(_variance(part.mean(axis=0)) for part in strata) / len(strata) ** 2 + extra / num_prompts**2
    freedoms = [(of_seeds, num_seeds - 1), (of_prompts, num_prompts - len(strata))]
    spent = sum(part**2 / freedom for part, freedom in freedoms if part > 0 and freedom > 0)
    variance = of_seeds + of_prompts
    quantile = stats.t.ppf((1 + _LEVEL) / 2, variance**2 / spent if spent else math.inf)
    return float(by_seed.mean()), variance, float(quantile)


def _variance(values: np.ndarray) -> float:
    """Of the mean of independent values; 0 for a single value."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
