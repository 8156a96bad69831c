"""Inner product manipulation (Xie, Koyejo and Gupta, "Fall of Empires", UAI 2019, arXiv 1903.03936).

Every attacker sends -epsilon times the mean of the honest updates that it knows, so that the inner product of the aggregate with
the true mean becomes negative where epsilon is large enough.
"""

from __future__ import annotations

import torch


def opposed(rows_MD: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    """-epsilon times the mean of the rows, (D,)."""
    return -epsilon * rows_MD.mean(0)
