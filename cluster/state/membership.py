"""Who belongs to the federation: every client it ever knew with its files, and which of them take part now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Files = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """One that leaves stays known, so that it comes back as itself: with its id, data and trust.

    Example: of a, b, c and d, scaled to 2, a and b are left; e joins, and a, b and e take part; scaled to 4, c is back.
    """

    known: Mapping[str, Files]
    """Client id -> its data files, in order of joining, which is that of the ids."""
    active: tuple[str, ...]
    """Ids of those who take part, in order of joining."""

    def num_missing(self, num_active: int) -> int:
        """How many newcomers it takes to have so many active."""
        return max(0, num_active - len(self.known))

    def scaled(self, num_active: int, newcomers: Mapping[str, Files]) -> Roster:
        """With so many active; who leaves are the last to have joined, who comes back are the first of those known."""
        if num_active <= len(self.active):
            return Roster(known=self.known, active=self.active[:num_active])
        known = {**self.known, **newcomers}
        away = [client_id for client_id in known if client_id not in self.active]
        back = {*self.active, *away[: num_active - len(self.active)]}
        return Roster(known=known, active=tuple(client_id for client_id in known if client_id in back))

    def joined(self, newcomers: Mapping[str, Files]) -> Roster:
        """With newcomers, all of whom take part."""
        return Roster(known={**self.known, **newcomers}, active=(*self.active, *newcomers))
