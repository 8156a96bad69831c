"""Who may see which family: one table, drawn from the world seed.

Every family has exactly one role, so whatever is fitted, calibrated or refreshed on one role's families never saw
another's. Pretraining is the exception by nature: the base model knows the trained families and refuses all the
restricted ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from actors.world.benign import NEW, TRAINED
from actors.world.restricted import RESTRICTED

ROLES: dict[str, tuple[int, int, int]] = {
    # role: number of (trained benign, new benign, restricted) families
    "federation": (6, 3, 6),
    "collection": (6, 2, 4),
    "calibration": (2, 1, 2),
    "probe_test": (2, 1, 2),
    "live_reference": (2, 1, 2),
    "canary": (0, 0, 2),
}
"""`federation` families are also those of the evaluation, on held-out prompts."""


@dataclass(frozen=True, slots=True)
class RoleFamilies:
    """Names of the families of one role."""

    trained: tuple[str, ...]
    new: tuple[str, ...]
    restricted: tuple[str, ...]

    @property
    def benign(self) -> tuple[str, ...]:
        return self.trained + self.new


def assign_roles(seed: int) -> dict[str, RoleFamilies]:
    """Deal the families of world `seed` to the roles."""
    rng = np.random.default_rng([seed, 2])
    decks = [[family.name for family in _shuffled(rng, families)] for families in (TRAINED, NEW, RESTRICTED)]
    roles, starts = {}, [0, 0, 0]
    for role, counts in ROLES.items():
        hands = [tuple(deck[start : start + n]) for deck, start, n in zip(decks, starts, counts, strict=True)]
        starts = [start + n for start, n in zip(starts, counts, strict=True)]
        roles[role] = RoleFamilies(*hands)
    return roles


def _shuffled(rng: np.random.Generator, families: tuple) -> list:
    return [families[i] for i in rng.permutation(len(families))]
