"""All updates of a round side by side, for rules that cannot stream; worked on tensor by tensor.

Deltas are kept in float32: each is the difference of two float32 tensors rounded once, at half the memory of float64.
Whatever is computed from them is float64, in blocks of bounded size, in order of client id.

Shapes: N clients, M values of one tensor, W values of one block of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from defense.rules.rule import Update

_BLOCK_VALUES = 1 << 19
"""Values of a block over all clients; 4 MiB in float64."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The updates of a round in ascending order of client id.

    `mixing_NN` makes every row a linear combination of the clients' deltas without computing it: row i of a tensor is
    sum_j mixing_ij delta_j. None: the deltas themselves.
    """

    updates: tuple[Update, ...] = ()
    mixing_NN: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.updates)

    @property
    def names(self) -> list[str]:
        """The tensors' names, sorted; raises ValueError when nothing was added."""
        if not self.updates:
            raise ValueError("no client was added")
        return sorted(self.updates[0].delta)

    @property
    def weights_N(self) -> torch.Tensor:
        """w of each client, float64."""
        return torch.tensor([update.weight for update in self.updates], dtype=torch.float64)

    @property
    def masses_N(self) -> torch.Tensor:
        """n w of each client, float64."""
        return torch.tensor([update.mass for update in self.updates], dtype=torch.float64)

    def shape(self, name: str) -> torch.Size:
        return self.updates[0].delta[name].shape

    def size(self, name: str) -> int:
        return self.shape(name).numel()

    def rows_NW(self, name: str, part: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """A tensor's values, or the part of them that is asked for, one row per client in float64."""
        rows = torch.stack([update.delta[name].reshape(-1)[part] for update in self.updates]).double()
        return rows if self.mixing_NN is None else self.mixing_NN @ rows

    def row(self, index: int) -> dict[str, torch.Tensor]:
        """One client's tensors in float64."""
        return combine(self, torch.eye(len(self), dtype=torch.float64)[index])

    def parts(self, name: str) -> list[slice]:
        """The parts of a tensor whose values over all clients make a block."""
        width = max(1, _BLOCK_VALUES // len(self))
        return [slice(start, min(start + width, self.size(name))) for start in range(0, self.size(name), width)]

    def blocks(self) -> Iterator[tuple[str, slice, torch.Tensor]]:
        """Name, part and values (N, W) of every block of every tensor."""
        for name in self.names:
            for part in self.parts(name):
                yield name, part, self.rows_NW(name, part)


def add(state: Gathered, update: Update) -> Gathered:
    """Add one client; its place follows from its id, whenever it comes.

    Raises:
        ValueError: its id is there already.
    """
    before, after = _split(state.updates, update.client_id)
    if after and after[0].client_id == update.client_id:
        raise ValueError(f"client {update.client_id} was added twice")
    kept = replace(update, delta={name: tensor.float() for name, tensor in update.delta.items()})
    return replace(state, updates=(*before, kept, *after))


def _split(updates: tuple[Update, ...], client_id: str) -> tuple[tuple[Update, ...], tuple[Update, ...]]:
    place = bisect_left(updates, client_id, key=lambda update: update.client_id)
    return updates[:place], updates[place:]


def combine(updates: Gathered, coefficients_N: torch.Tensor) -> dict[str, torch.Tensor]:
    """sum_i c_i x_i of every tensor, summed in order of client id; clients of coefficient 0 are not read."""
    if updates.mixing_NN is not None:
        coefficients_N = coefficients_N @ updates.mixing_NN
    kept = [(c, update.delta) for c, update in zip(coefficients_N.tolist(), updates.updates, strict=True) if c != 0]
    sums = {name: torch.zeros(updates.shape(name), dtype=torch.float64) for name in updates.names}
    for name, total in sums.items():
        for coefficient, delta in kept:
            total.add_(delta[name], alpha=coefficient)
    return sums


def mean(updates: Gathered, masses_N: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mean of the updates, weighted by masses of which at least one is positive."""
    return combine(updates, masses_N / masses_N.sum())


def mean_of(updates: Gathered, chosen: list[int]) -> dict[str, torch.Tensor]:
    """The mean of the chosen clients' updates, weighted by n w."""
    masses_N = torch.zeros(len(updates), dtype=torch.float64)
    masses_N[chosen] = updates.masses_N[chosen]
    return mean(updates, masses_N)


def by_coordinate(updates: Gathered, rule: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    """A rule that maps a block (N, W) to (W,), applied to every block of every tensor, in the order of `blocks`."""
    flat = {name: torch.empty(updates.size(name), dtype=torch.float64) for name in updates.names}
    for name, part, rows_NW in updates.blocks():
        flat[name][part] = rule(rows_NW)
    return {name: values.reshape(updates.shape(name)) for name, values in flat.items()}
