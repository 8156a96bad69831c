"""Splitting samples by family and client, never by sample: steps of one client are near copies of each other."""

from __future__ import annotations

import numpy as np

_CLASSES = ((0, "benign"), (1, "malicious"))


def hold_out(labels: np.ndarray, clients: np.ndarray, families: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask (n,) of rows whose clients AND families are on no row outside it; about `share` of each class's clients.

    A class with several families gives whole families, at least one; a class with a single family gives clients of it.

    Args:
        labels, clients, families: (n,) each; 1 is malicious.

    Raises:
        ValueError: a class is missing, or would lie wholly on one side.
    """
    rng, mask = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for label, name in _CLASSES:
        rows = labels == label
        members = np.unique(clients[rows])
        if len(members) < 2:
            raise ValueError(f"the probe needs at least 2 {name} clients, got {len(members)}; collect more")
        wanted = max(1, round(share * len(members)))
        kinds = np.unique(families[rows])
        if len(kinds) > 1:
            mask |= np.isin(families, _fill(rng.permutation(kinds), rows, families, clients, wanted))
        else:
            mask |= np.isin(clients, rng.permutation(members)[:wanted])
    for label, name in _CLASSES:
        if mask[labels == label].all() or not mask[labels == label].any():
            raise ValueError(f"holding out {share:g} of the {name} clients leaves none on one side; collect more families")
    return mask


def _fill(kinds: np.ndarray, rows: np.ndarray, families: np.ndarray, clients: np.ndarray, wanted: int) -> list:
    """Families, in this order, until `wanted` clients are among them."""
    chosen: list = []
    while len(chosen) < len(kinds) - 1 and len(np.unique(clients[rows & np.isin(families, chosen)])) < wanted:
        chosen.append(kinds[len(chosen)])
    return chosen
