"""The updates of one round side by side, for rules that cannot stream, and the aggregate that a rule makes of them.

Deltas are kept in float32: each is the difference of two float32 tensors rounded once, at half the memory of float64.
Whatever is computed from them is float64, in blocks of bounded size, in order of client id.

Shapes: N clients, M values of one tensor, W values of one block of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from defense.tensors import Tensors

_BLOCK_VALUES = 1 << 19
"""Values of a block over all clients; 4 MiB in float64, which a processor's cache holds."""
_LEAST_WIDTH = 1024
"""Of a block: with thousands of clients, reading narrower rows takes more time than what is done with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedUpdate:
    """One client's part in a round: admitted, and of a weight above 0."""

    client_id: str
    delta: Tensors
    """Client minus global."""
    num_samples: int
    """n: examples trained this round."""
    weight: float
    """w in (0, 1]."""
    bounded_mass: float | None = None
    """What `aggregation.max_share` leaves of n w; None: all of it."""

    def __post_init__(self) -> None:
        """Raises ValueError when the mass is not positive: such a client must not reach a rule."""
        if not self.mass > 0:
            raise ValueError(
                f"client {self.client_id} of mass {self.mass} (num_samples {self.num_samples} x weight {self.weight}) "
                "must not be added"
            )

    @property
    def mass(self) -> float:
        """n w, the client's part in every mean."""
        return self.num_samples * self.weight if self.bounded_mass is None else self.bounded_mass


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """A round's outcome."""

    delta: dict[str, torch.Tensor]
    """The pseudo-gradient in float64: the global adapter moves by it."""
    memory: Tensors = field(default_factory=dict)
    """What the rule remembers until the next aggregated round; flat, so that it is a safetensors file."""
    num_attackers: int | None = None
    """f' that the rule assumed, at most `aggregation.f`; None when it assumes none."""
    error: float | None = None
    """Relative error of the mean of B A, in the Frobenius norm over all modules; None when that is not approximated."""


@dataclass(frozen=True, slots=True)
class RoundUpdates:
    """The updates of a round in ascending order of client id.

    `mixing_NN` makes every row a linear combination of the clients' deltas without computing it: row i of a tensor is
    sum_j mixing_ij delta_j. None: the deltas themselves.
    """

    updates: tuple[WeightedUpdate, ...] = ()
    mixing_NN: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.updates)

    def add(self, update: WeightedUpdate) -> RoundUpdates:
        """With one more client, whose place follows from its id; raises ValueError when its id is there already."""
        place = bisect_left(self.updates, update.client_id, key=lambda other: other.client_id)
        before, after = self.updates[:place], self.updates[place:]
        if after and after[0].client_id == update.client_id:
            raise ValueError(f"client {update.client_id} was added twice")
        kept = replace(update, delta={name: tensor.float() for name, tensor in update.delta.items()})
        return replace(self, updates=(*before, kept, *after))

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
        """A tensor's values, or a part of them, one row per client in float64."""
        rows = self._kept_NW(name, part).double()
        return rows if self.mixing_NN is None else self.mixing_NN @ rows

    def _kept_NW(self, name: str, part: slice | torch.Tensor) -> torch.Tensor:
        """The clients' own values, float32."""
        return torch.stack([update.delta[name].reshape(-1)[part] for update in self.updates])

    def row(self, index: int) -> dict[str, torch.Tensor]:
        """One client's tensors in float64."""
        return self.combine(torch.eye(len(self), dtype=torch.float64)[index])

    def parts(self, name: str) -> list[slice]:
        """The parts of a tensor whose values over all clients make a block."""
        width = max(_LEAST_WIDTH, _BLOCK_VALUES // len(self))
        return [slice(start, min(start + width, self.size(name))) for start in range(0, self.size(name), width)]

    def blocks(self) -> Iterator[tuple[str, slice, torch.Tensor]]:
        """Name, part and values (N, W) in float64 of every block of every tensor.

        A caller may overwrite the values, and must not keep them: the next block takes their place.
        """
        scratch = torch.empty(max(_BLOCK_VALUES, _LEAST_WIDTH * len(self)), dtype=torch.float64)
        for name in self.names:
            for part in self.parts(name):
                rows_NW = scratch[: len(self) * (part.stop - part.start)].view(len(self), -1)
                for row_W, update in zip(rows_NW, self.updates, strict=True):
                    row_W.copy_(update.delta[name].reshape(-1)[part])
                yield name, part, rows_NW if self.mixing_NN is None else self.mixing_NN @ rows_NW

    def combine(self, coefficients_N: torch.Tensor) -> dict[str, torch.Tensor]:
        """sum_i c_i x_i of every tensor, summed in order of client id; clients of coefficient 0 are not read."""
        if self.mixing_NN is not None:
            coefficients_N = coefficients_N @ self.mixing_NN
        kept = [(c, update.delta) for c, update in zip(coefficients_N.tolist(), self.updates, strict=True) if c != 0]
        sums = {name: torch.zeros(self.shape(name), dtype=torch.float64) for name in self.names}
        for name, total in sums.items():
            wide = torch.empty_like(total)
            for coefficient, delta in kept:
                total.add_(wide.copy_(delta[name]), alpha=coefficient)
        return sums

    def mean(self, masses_N: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The mean of the updates, weighted by masses of which at least one is positive; None: by n w."""
        masses_N = self.masses_N if masses_N is None else masses_N
        return self.combine(masses_N / masses_N.sum())

    def mean_of(self, chosen: list[int]) -> dict[str, torch.Tensor]:
        """The mean of the chosen clients' updates, weighted by n w."""
        masses_N = torch.zeros(len(self), dtype=torch.float64)
        masses_N[chosen] = self.masses_N[chosen]
        return self.mean(masses_N)

    def by_coordinate(self, rule: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        """A rule that maps a block (N, W) to (W,), applied to every block of every tensor, in the order of `blocks`.

        The block is in float32, as deltas are kept, unless it is mixed: comparisons need no more; the rule widens what it sums.
        """
        flat = {name: torch.empty(self.size(name), dtype=torch.float64) for name in self.names}
        read = self._kept_NW if self.mixing_NN is None else self.rows_NW
        for name in self.names:
            for part in self.parts(name):
                flat[name][part] = rule(read(name, part))
        return {name: values.reshape(self.shape(name)) for name, values in flat.items()}
