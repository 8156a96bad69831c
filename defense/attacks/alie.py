"""A Little Is Enough (Baruch, Baruch and Goldberg, NeurIPS 2019, arXiv 1902.06156, section 3, algorithm 3).

Of n clients, m malicious, s = floor(n/2 + 1) - m honest ones are needed for a majority. The attackers send mean - z std in
every value, with z = Phi^-1((n - m - s) / (n - m)): so far out, s honest clients are still expected to lie farther. Mean and
standard deviation are estimated on the attackers' own honest updates.
"""

from __future__ import annotations

from statistics import NormalDist

import torch

_MOST = 0.999
"""Of the honest clients: where the attackers are a majority by themselves, no z is too large for the formula."""


def shifted(rows_MD: torch.Tensor, *, z: float) -> torch.Tensor:
    """mean - z std of the rows, (D,); the standard deviation is that of the population."""
    return rows_MD.mean(0) - z * rows_MD.std(0, correction=0)


def largest_z(num_clients: int, num_malicious: int) -> float:
    """The paper's z, at least 0."""
    supporters = num_clients // 2 + 1 - num_malicious
    honest = num_clients - num_malicious
    share = (honest - supporters) / honest if honest else 1.0
    return NormalDist().inv_cdf(min(share, _MOST)) if share > 0.5 else 0.0
