"""Labelled samples of updates: what a probe is fitted to and measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ((0, "benign"), (1, "malicious"))
"""Label and name of each class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLabel:
    """What the server knows of a reference client, whose data it owns."""

    client: str
    malicious: bool
    family: str
    """The family of tasks that the client trained on."""
    source: str
    """Where its data comes from, such as a file."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """n samples, one per local step of a reference client; every array has n rows."""

    features: np.ndarray
    """(n, d) float32. May be a memory-mapped file."""
    labels: np.ndarray
    """(n,) int: 1 for malicious, 0 for benign."""
    clients: np.ndarray
    """(n,) str: the reference client that a sample comes from; a client has one label and one family."""
    families: np.ndarray
    """(n,) str: the family of tasks that the client trained on."""
    steps: np.ndarray
    """(n,) int: the local step, from 1."""
    states: np.ndarray
    """(n,) str: the adapter state that training started from, such as `initial`."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Samples:
        """The samples where the mask `rows` (n,) is true."""
        return Samples(*(getattr(self, name)[rows] for name in self.__slots__))

    @property
    def num_clients(self) -> dict[str, int]:
        """`benign` and `malicious` -> how many clients."""
        return {name: len(np.unique(self.clients[self.labels == label])) for label, name in CLASSES}
