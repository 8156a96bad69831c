"""A small table that stands in the page as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """Texts in lines and columns; the first column names the line."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    caption: str = ""


def figure(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number for people; a dash where there is none."""
    return "-" if value is None else f"{value:{sign}.{digits}f}"
