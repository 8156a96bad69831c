"""Every living node is asked at once what it has, by a task that needs none of our packages there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.doctor.faults import NodeReport
from cluster.doctor.node_report import node_report
from cluster.workers.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNode:
    """A living node and what people call it."""

    id: str
    name: str
    node: Node


def named_nodes() -> list[NamedNode]:
    """The living nodes, the head first."""
    living = [node for node in ray.nodes() if node["Alive"]]
    living.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
    return [
        NamedNode(
            id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})",
            node=Node(node["Resources"], node["Labels"]),
        )
        for node in living
    ]


def ask_nodes(paths: Mapping[str, Sequence[str]], timeout_s: float) -> dict[str, NodeReport | str]:
    """What nodes report: `paths` has what to look for there, by the node's id. Of one that does not answer it is told why."""
    task, refs = ray.remote(node_report), {}
    for node_id, wanted in paths.items():
        pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
        refs[node_id] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=pinned).remote(list(wanted))
    answered = set(ray.wait(list(refs.values()), num_returns=len(refs), timeout=timeout_s)[0])
    late = f"no answer within {timeout_s:g} s; see whether the node lives, or give it longer with --timeout"
    return {node_id: _answer(ref) if ref in answered else late for node_id, ref in refs.items()}


def _answer(ref: ray.ObjectRef) -> NodeReport | str:
    try:
        return NodeReport(**ray.get(ref))
    except RayError as error:
        return f"could not be asked: {str(error).strip().splitlines()[0]}"
