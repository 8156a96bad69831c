"""How the parts print their figures."""

from __future__ import annotations

from collections.abc import Sequence


def show(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: the first column is text, the others are numbers, or absent."""
    print(f"{columns[0]:42}" + "".join(f"{column:>18}" for column in columns[1:]))
    for first, *others in rows:
        print(f"{first!s:42}" + "".join(f"{'-' if value is None else f'{value:.4g}':>18}" for value in others), flush=True)
