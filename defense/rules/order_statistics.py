"""Values of given ranks in the columns of a matrix, by a sorting network.

A network compares whole rows, whatever the values are, so each comparison is one vector operation; a sort of short columns
spends its time on branches. Batcher's odd-even merge sort (K. E. Batcher, "Sorting networks and their applications", AFIPS
1968) for the next power of two; rows that do not exist count as infinite and never move, and comparisons that no wanted rank
depends on are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch

_MOST_ROWS = 128
"""Beyond this many rows the network has more comparisons than a sort of each column."""

_Comparison = tuple[int, int, bool, bool]
"""Two rows, and whether the lower and the higher of them is read later."""


def ranked(rows_NW: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """The values of ranks `first` to `last` - 1 of each column, ascending, (last - first, W); finite values."""
    count = len(rows_NW)
    if count > _MOST_ROWS:
        return torch.from_numpy(np.sort(rows_NW.numpy(), axis=0)[first:last])
    values = rows_NW.numpy().reshape(count, -1)
    rows, spare = list(values.copy()), np.empty_like(values[0])
    for a, b, keeps_low, keeps_high in _network(count, first, last):
        if keeps_low and keeps_high:
            np.minimum(rows[a], rows[b], out=spare)
            np.maximum(rows[a], rows[b], out=rows[b])
            rows[a], spare = spare, rows[a]
        elif keeps_low:
            np.minimum(rows[a], rows[b], out=rows[a])
        else:
            np.maximum(rows[a], rows[b], out=rows[b])
    return torch.from_numpy(np.stack(rows[first:last])).reshape(last - first, *rows_NW.shape[1:])


@lru_cache(maxsize=64)
def _network(count: int, first: int, last: int) -> tuple[_Comparison, ...]:
    """The comparisons in order on which these ranks of so many rows depend."""
    wires = range(1 << (count - 1).bit_length())
    needed, found = set(range(first, last)), list[_Comparison]()
    for a, b in reversed([pair for pair in _sort(wires) if pair[1] < count]):
        if a in needed or b in needed:
            found.append((a, b, a in needed, b in needed))
            needed |= {a, b}
    return tuple(reversed(found))


def _sort(wires: Sequence[int]) -> Iterator[tuple[int, int]]:
    if len(wires) > 1:
        middle = len(wires) // 2
        yield from _sort(wires[:middle])
        yield from _sort(wires[middle:])
        yield from _merge(wires)


def _merge(wires: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Merge two sorted halves: those of the even and of the odd places first, and then neighbours."""
    if len(wires) == 2:
        yield wires[0], wires[1]
        return
    yield from _merge(wires[::2])
    yield from _merge(wires[1::2])
    yield from zip(wires[1:-1:2], wires[2::2], strict=True)
