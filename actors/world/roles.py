"""Which family serves which purpose: one table, drawn from the world seed.

Every family has one role at most, so what is fitted, calibrated or refreshed on one role's families never saw another's.
Pretraining is the exception: the base model knows the trained families and refuses all restricted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from actors.world.benign import NEW, TRAINED
from actors.world.restricted import RESTRICTED

_Family = TypeVar("_Family")

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
    return {
        role: RoleFamilies(*(tuple(deck.pop(0) for _ in range(count)) for deck, count in zip(decks, counts, strict=True)))
        for role, counts in ROLES.items()
    }


def _shuffled(rng: np.random.Generator, families: Sequence[_Family]) -> list[_Family]:
    return [families[i] for i in rng.permutation(len(families))]
