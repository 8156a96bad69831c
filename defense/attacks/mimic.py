"""Mimic (Karimireddy, He and Jaggi, ICLR 2022, arXiv 2006.09365: the mimic attack).

All attackers repeat one honest client's update, the one that stands out most along the direction of largest variance, so
that the aggregate leans towards it. The paper follows a running estimate of that direction; here it is the round's own. The
attackers know only each other's honest updates, so the client they mimic is one of theirs.
"""

from __future__ import annotations

import torch


def mimicked(rows_MD: torch.Tensor) -> torch.Tensor:
    """The row farthest from the mean along the first principal direction, (D,); of equal ones the first."""
    centred_MD = rows_MD - rows_MD.mean(0)
    _, vectors_MM = torch.linalg.eigh(centred_MD @ centred_MD.T)
    along_M = vectors_MM[:, -1].abs()  # a row's part along the direction, up to one common factor
    return rows_MD[int((along_M >= along_M.max() - 1e-9).to(torch.int8).argmax())]
