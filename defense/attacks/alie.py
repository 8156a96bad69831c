"""A Little Is Enough (Baruch, Baruch and Goldberg, NeurIPS 2019, arXiv 1902.06156, section 3, algorithm 3).

Of n clients, m malicious, s = floor(n/2 + 1) - m honest ones are needed for a majority. The attackers send mean - z std in
every value, with z = Phi^-1((n - m - s) / (n - m)): so far out, s honest clients are still expected to lie farther. Mean and
standard deviation are estimated on the attackers' own honest updates.
"""

from __future__ import annotations

import torch


def shifted(rows_MD: torch.Tensor, *, z: float) -> torch.Tensor:
    """mean - z std of the rows, (D,); the standard deviation is that of the population."""
    return rows_MD.mean(0) - z * rows_MD.std(0, correction=0)
