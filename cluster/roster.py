"""Who belongs to the federation: every client it ever knew with its files, and which of them take part now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

Files = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Clients in order of joining. One that leaves stays known, so that it comes back as itself: with its id, data and trust."""

    known: Mapping[str, Files]
    """Client id -> its data files."""
    num_active: int
    """The first so many of `known` take part."""

    @property
    def active(self) -> list[str]:
        """Ids of those who take part, in order of joining, which is that of their ids."""
        return list(self.known)[: self.num_active]

    def scaled(self, num_active: int, newcomers: Mapping[str, Files]) -> Roster:
        """With so many active; who leaves are the last to have joined, who comes back are the first to have left."""
        return replace(self, known={**self.known, **newcomers}, num_active=num_active)
