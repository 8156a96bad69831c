"""What one check says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from actors.errors import SafeFedError


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    ok: bool
    detail: str
    """What there is; or what is wrong, and what to do."""


def tried(check: str, call: Callable[[], str]) -> Finding:
    """The finding of a check that returns what there is, or raises what is wrong."""
    try:
        return Finding(check, True, call())
    except (SafeFedError, OSError) as error:
        return Finding(check, False, str(error))
