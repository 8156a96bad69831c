"""From a feature of unit blocks to the cosine of each block to the block's mean in each class: 2 numbers per block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.classifiers.numbers import NUMBERS_FILE, as_sizes, read_numbers, write_numbers
from probe.samples import Samples

_MOST_FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class ClassMeans:
    """Unit means of the benign and of the malicious samples, block by block."""

    means: np.ndarray
    """(2, d) float32; row 0 benign, row 1 malicious; each block has norm 1, or 0 when the class's blocks cancel out."""
    sizes: tuple[int, ...]
    """Values of each block; they sum to d."""

    def cosines(self, features: np.ndarray) -> np.ndarray:
        """(n, 2 x number of blocks) float32 in [-1, 1], each row reduced by itself in float64."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        means = self.means.astype(np.float64)
        rows = [np.add.reduceat(means * np.asarray(row, dtype=np.float64), starts, axis=1).reshape(-1) for row in features]
        return np.array(rows, dtype=np.float32).reshape(len(features), 2 * len(self.sizes))

    def files(self) -> dict[str, bytes]:
        """File name -> content."""
        return write_numbers({"means": self.means, "sizes": np.array(self.sizes)})

    @staticmethod
    def load(files: Mapping[str, bytes]) -> ClassMeans:
        """From `files()`; raises ValueError when they cannot be used."""
        means, sizes = read_numbers(files, "means", "sizes")
        if means.ndim != 2 or len(means) != 2:
            raise ValueError(f"{NUMBERS_FILE}: expected a mean of each of 2 classes, got the shape {means.shape}")
        return ClassMeans(means, as_sizes(sizes, means.shape[1]))

    @property
    def num_values(self) -> int:
        """d: how many values a feature has."""
        return self.means.shape[1]


def fit_means(features: np.ndarray, labels: np.ndarray, sizes: Sequence[int], rows: np.ndarray) -> ClassMeans:
    """Mean of each class over the rows of a mask (n,), features (n, d) -> (2, d); each block divided by its L2 norm."""
    means = np.stack([_mean(features, np.flatnonzero(rows & (labels == label))) for label in (0, 1)])
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        block = means[:, end - size : end]
        norms = np.sqrt((block * block).sum(axis=1, keepdims=True))
        block /= np.where(norms > 0, norms, 1)
    return ClassMeans(means.astype(np.float32), tuple(sizes))


def cross_fitted_cosines(samples: Samples, sizes: Sequence[int], rows: np.ndarray) -> tuple[np.ndarray, ClassMeans]:
    """Cosines (n, 2 x number of blocks) to means that leave out the sample's own client, and the means of all `rows`.

    A sample lies nearer to a mean that it is part of than any new sample will, and trees that learn from such cosines fail
    on new clients (measured on the embedded world, other families: ROC AUC 0.984 instead of 1.000). So the clients of each
    class among `rows` are dealt into up to 4 folds, and a fold's cosines are to the means of the others. Samples outside
    `rows` are compared with the means of all rows.

    Args:
        rows: (n,) mask of the samples that the means are made of; at least one client of each class.
    """
    features, labels, clients = samples.features, samples.labels, samples.clients
    means = fit_means(features, labels, sizes, rows)
    cosines = means.cosines(features)
    members = [np.unique(clients[rows & (labels == label)]) for label in (0, 1)]
    num_folds = min(_MOST_FOLDS, *(len(names) for names in members))
    if num_folds < 2:
        return cosines, means
    for fold in range(num_folds):
        inside = rows & np.isin(clients, np.concatenate([names[fold::num_folds] for names in members]))
        others = fit_means(features, labels, sizes, rows & ~inside)
        for row in np.flatnonzero(inside):
            cosines[row] = others.cosines(features[row : row + 1])[0]
    return cosines, means


def _mean(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of these rows in float64, one row in memory at a time."""
    total = np.zeros(features.shape[1])
    for row in rows:
        total += features[row]
    return total / len(rows)
