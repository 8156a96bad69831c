"""Splitting samples by family and client, never by sample: steps of one client are near copies of each other."""

from __future__ import annotations

import numpy as np

from probe.samples import CLASSES, Samples


def hold_out(samples: Samples, share: float, seed: int) -> np.ndarray:
    """A mask (n,) of rows whose clients are on no row outside it; about `share` of each class's clients, at least one.

    A class with several families gives whole families, which then are on no row outside either, whatever class uses them;
    a class with a single family gives clients of it. Each class keeps rows outside.

    Raises:
        ValueError: a class has fewer than 2 clients.
    """
    rng, mask = np.random.default_rng(seed), np.zeros(len(samples), dtype=bool)
    num_clients = samples.num_clients
    for _, name in CLASSES:
        if num_clients[name] < 2:
            raise ValueError(f"the probe needs at least 2 {name} clients, got {num_clients[name]}; collect more")
    for label, name in CLASSES:
        own, units = _units(samples, label)
        groups = [units == unit for unit in rng.permutation(np.unique(units[own]))]
        mask = _hold_groups(mask, groups, own, samples, max(1, round(share * num_clients[name])))
    return mask


def _units(samples: Samples, label: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows (n,) of a class, and what it is split by (n,): its families where it has several, else its clients."""
    own = samples.labels == label
    return own, samples.families if len(np.unique(samples.families[own])) > 1 else samples.clients


def _hold_groups(mask: np.ndarray, groups: list[np.ndarray], own: np.ndarray, samples: Samples, wanted: int) -> np.ndarray:
    """The mask with groups of rows added, in this order, that bring the held-out clients of `own` nearer to `wanted`.

    Where none does, the smallest group is held out. A group that would leave no row of a class outside is skipped.
    """

    def held(rows: np.ndarray) -> int:
        return len(np.unique(samples.clients[rows & own]))

    possible = [group for group in groups if _leaves_both(mask | group, samples)]
    for group in possible:
        nearer = abs(held(mask | group) - wanted) < abs(held(mask) - wanted)
        if nearer and _leaves_both(mask | group, samples):
            mask = mask | group
    return mask if held(mask) else mask | min(possible, key=held)


def _leaves_both(mask: np.ndarray, samples: Samples) -> bool:
    return all(np.any(~mask & (samples.labels == label)) for label, _ in CLASSES)


def folds(samples: Samples, number: int, seed: int) -> list[np.ndarray]:
    """`number` masks (n,), or fewer where the samples do not suffice: every row is in exactly one of them.

    Families are dealt in turn, so no family is in two folds; a class with a single family has its clients dealt instead.
    Each fold holds, and leaves outside, rows of both classes. Raises ValueError as `hold_out`.
    """
    whole = hold_out(samples, 0.5, seed)
    for count in range(number, 1, -1):
        dealt = _deal(samples, count, np.random.default_rng(seed))
        masks = [dealt == fold for fold in range(count)]
        if all(_leaves_both(mask, samples) and _leaves_both(~mask, samples) for mask in masks):
            return masks
    return [whole, ~whole] if _leaves_both(~whole, samples) else [whole]


def _deal(samples: Samples, number: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each row (n,): malicious families first, then the benign ones that are left, to the fold with fewest clients."""
    dealt = np.full(len(samples), -1)
    for label in (1, 0):
        own, units = _units(samples, label)
        for unit in rng.permutation(np.unique(units[own & (dealt < 0)])):
            sizes = [len(np.unique(samples.clients[own & (dealt == fold)])) for fold in range(number)]
            dealt[(units == unit) & (dealt < 0)] = int(np.argmin(sizes))
    return dealt
