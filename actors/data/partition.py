"""Splitting the rows of one data set over clients: at random, by Dirichlet shares of a column's values, or by those values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.config import PartitionConfig
from actors.errors import DataError

_DIRICHLET_DRAWS = 100


def split_rows(
    num_rows: int, num_clients: int, config: PartitionConfig, values: Sequence[object] | None, rng: np.random.Generator
) -> list[np.ndarray]:
    """The row numbers of each client, ascending: disjoint, together all rows, none empty.

    Args:
        values: The column's value per row for `dirichlet` and `column`; None for `iid`.

    Raises:
        DataError: too few rows or values for the clients.
    """
    if num_rows < num_clients:
        raise DataError(f"{num_rows} rows cannot be split over clients.count={num_clients} clients")
    if config.by == "iid":
        return [np.sort(part) for part in np.array_split(rng.permutation(num_rows), num_clients)]
    groups = _group_rows(values or ())
    if config.by == "column":
        return _deal_values(groups, num_clients, config.column)
    return _draw_dirichlet(groups, num_clients, config.alpha, rng)


def _group_rows(values: Sequence[object]) -> dict[str, np.ndarray]:
    texts = np.array([str(value) for value in values])
    return {value: np.flatnonzero(texts == value) for value in sorted(set(texts.tolist()))}


def _deal_values(groups: dict[str, np.ndarray], num_clients: int, column: str | None) -> list[np.ndarray]:
    """Client i gets every num_clients-th value, in sorted order of the values."""
    if len(groups) < num_clients:
        raise DataError(
            f"column {column} has {len(groups)} values, too few to give each of clients.count={num_clients} clients its own; "
            "lower clients.count or use data.partition.by=dirichlet"
        )
    parts = list(groups.values())
    return [np.sort(np.concatenate(parts[i::num_clients])) for i in range(num_clients)]


def _draw_dirichlet(groups: dict[str, np.ndarray], num_clients: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Each value's rows go to the clients in Dirichlet(alpha) shares (Hsu et al. 2019); redrawn until no client is empty."""
    for _ in range(_DIRICHLET_DRAWS):
        parts: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
        for rows in groups.values():
            shares = rng.dirichlet([alpha] * num_clients)
            cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
            for part, piece in zip(parts, np.split(rng.permutation(rows), cuts), strict=True):
                part.append(piece)
        clients = [np.sort(np.concatenate(part)) for part in parts]
        if all(len(rows) for rows in clients):
            return clients
    raise DataError(f"data.partition.alpha={alpha:g} leaves clients without rows; raise it or lower clients.count")
