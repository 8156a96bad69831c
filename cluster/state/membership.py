"""The clients that belong to the federation: every client it ever knew with its files, and those that take part now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Files = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A client that leaves stays known, so that it comes back as itself: with its id, data and trust.

    Example: of a, b, c and d, scaled to 2, a and b are left; e joins, and a, b and e take part; scaled to 4, c is back.
    """

    known: Mapping[str, Files]
    """Client id -> its data files, in order of joining, which is that of the ids."""
    active: tuple[str, ...]
    """Ids of the clients that take part, in order of joining."""

    def scaled(self, num_active: int, newcomers: Mapping[str, Files]) -> Membership:
        """With this many active: the last that joined leave first, and the first that joined come back first."""
        if num_active <= len(self.active):
            return Membership(known=self.known, active=self.active[:num_active])
        known = {**self.known, **newcomers}
        away = [client_id for client_id in known if client_id not in self.active]
        back = {*self.active, *away[: num_active - len(self.active)]}
        return Membership(known=known, active=tuple(client_id for client_id in known if client_id in back))

    def joined(self, newcomers: Mapping[str, Files]) -> Membership:
        """With newcomers, all of which take part."""
        return Membership(known={**self.known, **newcomers}, active=(*self.active, *newcomers))
