"""Honest clients that do not train alike: whose recipe is whose. The defense is not told."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence

from actors.config import Recipe


def assign_recipes(recipes: Sequence[Recipe], clients: Iterable[str], malicious: Collection[str]) -> dict[str, Recipe]:
    """Client id -> its recipe: the honest clients take turns through `recipes`, attackers have the plain one.

    Args:
        clients: All that there ever were, in order of joining: those who join later change nothing for the others.

    Example: of two recipes p and q, and clients a, b, c and d of which b is an attacker, a and d have p and c has q.
    """
    turns = itertools.cycle(recipes or [Recipe()])
    return {client_id: Recipe() if client_id in malicious else next(turns) for client_id in clients}
