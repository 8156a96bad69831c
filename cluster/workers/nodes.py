"""The living nodes of the connected cluster, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ray


@dataclass(frozen=True, slots=True)
class Node:
    """What one node offers."""

    resources: Mapping[str, float]
    """Ray's totals: CPU, GPU, memory in bytes; an absent name is 0."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def has(self, label: str | None) -> bool:
        """Whether it carries `label`, KEY=VALUE; no node carries None."""
        key, _, value = (label or "").partition("=")
        return label is not None and self.labels.get(key) == value


def living_nodes() -> list[Node]:
    """Nodes that Ray holds for alive; one that vanished is among them until Ray's health checks notice, up to a minute."""
    return [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]


def total(nodes: Sequence[Node], resource: str) -> float:
    """Sum of a resource over nodes."""
    return sum(node.resources.get(resource, 0) for node in nodes)
