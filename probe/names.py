"""Names that are read from a file and become a path again: plain file names only."""

from __future__ import annotations

import re

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def plain_name(name: str) -> str:
    """The name itself; raises ValueError where it could leave its folder or hide in it."""
    if not PLAIN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a file name; use up to 200 of [A-Za-z0-9._-], no [._-] first")
    return name
