"""Splitting samples by family and client, never by sample: steps of one client are near copies of each other."""

from __future__ import annotations

import numpy as np

_CLASSES = ((0, "benign"), (1, "malicious"))


def hold_out(labels: np.ndarray, clients: np.ndarray, families: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask (n,) of rows whose clients are on no row outside it; about `share` of each class's clients, at least one.

    A class with several families gives whole families, which then are on no row outside either, whatever class uses them;
    a class with a single family gives clients of it. Each class keeps rows outside.

    Args:
        labels, clients, families: (n,) each; 1 is malicious; a client has one label and one family.
        share: Between 0 and 1.

    Raises:
        ValueError: a class has fewer than 2 clients.
    """
    rng, mask = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    num_clients = [len(np.unique(clients[labels == label])) for label, _ in _CLASSES]
    for label, name in _CLASSES:
        if num_clients[label] < 2:
            raise ValueError(f"the probe needs at least 2 {name} clients, got {num_clients[label]}; collect more")
    for label, _ in _CLASSES:
        own = labels == label
        units = families if len(np.unique(families[own])) > 1 else clients
        groups = [units == unit for unit in rng.permutation(np.unique(units[own]))]
        mask = _hold_groups(mask, groups, own, labels, clients, max(1, round(share * num_clients[label])))
    return mask


def _hold_groups(
    mask: np.ndarray, groups: list[np.ndarray], own: np.ndarray, labels: np.ndarray, clients: np.ndarray, wanted: int
) -> np.ndarray:
    """The mask with groups of rows added, in this order, that bring the held-out clients of `own` nearer to `wanted`.

    Where none does, the smallest group is held out. A group that would leave a class nothing outside is passed over.
    """

    def held(rows: np.ndarray) -> int:
        return len(np.unique(clients[rows & own]))

    possible = [group for group in groups if _leaves_both(mask | group, labels)]
    for group in possible:
        nearer = abs(held(mask | group) - wanted) < abs(held(mask) - wanted)
        if nearer and _leaves_both(mask | group, labels):
            mask = mask | group
    return mask if held(mask) else mask | min(possible, key=held)


def _leaves_both(mask: np.ndarray, labels: np.ndarray) -> bool:
    return all(np.any(~mask & (labels == label)) for label, _ in _CLASSES)


def folds(labels: np.ndarray, clients: np.ndarray, families: np.ndarray, number: int, seed: int) -> list[np.ndarray]:
    """`number` masks (n,), or fewer where the samples do not suffice: every row is in exactly one of them.

    Families are dealt round, then no family is in two folds; a class with a single family has its clients dealt instead.
    Each fold holds, and leaves outside, rows of both classes.

    Raises:
        ValueError: a class has fewer than 2 clients.
    """
    whole = hold_out(labels, clients, families, 0.5, seed)
    for count in range(number, 1, -1):
        dealt = _deal(labels, clients, families, count, np.random.default_rng(seed))
        masks = [dealt == fold for fold in range(count)]
        if all(_leaves_both(mask, labels) and _leaves_both(~mask, labels) for mask in masks):
            return masks
    return [whole, ~whole] if _leaves_both(~whole, labels) else [whole]


def _deal(labels: np.ndarray, clients: np.ndarray, families: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each row (n,): malicious families first, then the benign ones that are left, each class round and round."""
    dealt = np.full(len(labels), -1)
    for label in (1, 0):
        own = labels == label
        units = families if len(np.unique(families[own])) > 1 else clients
        for unit in rng.permutation(np.unique(units[own & (dealt < 0)])):
            sizes = [len(np.unique(clients[own & (dealt == fold)])) for fold in range(number)]
            dealt[(units == unit) & (dealt < 0)] = int(np.argmin(sizes))
    return dealt
