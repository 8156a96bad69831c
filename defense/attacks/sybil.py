"""Sybils (Fung, Yoon and Beschastnikh, RAID 2020, arXiv 1808.04866): one attacker behind several clients.

All send one and the same update: here the mean of what their unsafe data taught each of them.
"""

from __future__ import annotations

import torch


def shared(rows_MD: torch.Tensor) -> torch.Tensor:
    """The mean of the rows, (D,)."""
    return rows_MD.mean(0)
