"""How far ALIE can go (`alie.py` has the source). No torch here: the configuration asks whether it is an attack at all."""

from __future__ import annotations

from statistics import NormalDist

_MOST = 0.999
"""Of the honest clients: where the attackers are a majority by themselves, no z is too large for the formula."""


def largest_z(num_clients: int, num_malicious: int) -> float:
    """The paper's z, at least 0, which is no attack: two of an even number of clients, or one of any, can go no distance."""
    supporters = num_clients // 2 + 1 - num_malicious
    honest = num_clients - num_malicious
    share = (honest - supporters) / honest if honest else 1.0
    return NormalDist().inv_cdf(min(share, _MOST)) if share > 0.5 else 0.0
