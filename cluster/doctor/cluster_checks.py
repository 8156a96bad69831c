"""The checks of a cluster: does it let us in and keep others out, has every node what actors need there, is there room."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import ray

from actors.config import ModelConfig
from cluster.config.schema import RunConfig
from cluster.doctor.faults import NodeReport, faults, summary
from cluster.doctor.finding import Finding, tried
from cluster.doctor.inspection import NamedNode, ask_nodes, named_nodes
from cluster.doctor.needs import Needed
from cluster.doctor.node_report import code_hash, versions
from cluster.errors import ClusterError
from cluster.ray_connection.authentication import asks_for_token
from cluster.ray_connection.session import ray_session
from cluster.workers.nodes import Node, total
from cluster.workers.placement import plan_placement


def check_cluster(config: RunConfig, model: ModelConfig, needed: Sequence[Needed], timeout_s: float) -> Iterator[Finding]:
    """Connect as a run would, ask every node, and plan the run's actors; without a connection that is the only finding."""
    address, was_connected = config.cluster.address or os.environ.get("RAY_ADDRESS"), ray.is_initialized()
    is_own = address is None and not was_connected
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_session(address))
        except ClusterError as error:
            yield Finding("connection", False, str(error))
            return
        nodes = named_nodes()
        where = "a local Ray that this command starts and ends" if is_own else address or "the connected Ray"
        yield Finding("connection", True, f"{where}: {len(nodes)} node{'s' if len(nodes) != 1 else ''}")
        yield tried("authentication", lambda: _authentication(address, is_own=is_own))
        reports = ask_nodes(_paths(nodes, needed, config.cluster.server_label), timeout_s)
        for node in nodes:
            yield from _node_findings(node, reports[node.id], needed)
        yield tried("room", lambda: room(config, model, [as_free(node.node, reports[node.id]) for node in nodes]))


def _authentication(address: str | None, *, is_own: bool) -> str:
    head = address if address and address.startswith("ray://") else ray.get_runtime_context().gcs_address
    if asks_for_token(head):
        return f"{head} asks for a token and takes this machine's"
    if is_own:
        return "the local Ray asks for no token, but ends with this command"
    raise ClusterError(
        f"{head} is open: whoever reaches it can run code there. On the head: `ray get-auth-token --generate`, then start it "
        "again with RAY_AUTH_MODE=token; give its token to every node and to this machine (SECURITY.md)"
    )


def _paths(nodes: Sequence[NamedNode], needed: Sequence[Needed], server_label: str | None) -> dict[str, list[str]]:
    return {node.id: [item.path for item in needed if item.on(node.node, server_label)] for node in nodes}


def _node_findings(node: NamedNode, report: NodeReport | str, needed: Sequence[Needed]) -> Iterator[Finding]:
    """A finding for each fault of a node, or one that says what it has."""
    check = f"node {node.name}"
    if isinstance(report, str):
        yield Finding(check, False, report)
        return
    found = faults(report, node.node, needed, versions(), code_hash())
    yield from (Finding(check, False, fault) for fault in found)
    if not found:
        yield Finding(check, True, summary(report, node.node))


def as_free(node: Node, report: NodeReport | str) -> Node:
    """The node with no more memory than is free on it; Ray counts what there was when the node started."""
    free, counted = None if isinstance(report, str) else report.free_bytes, node.resources.get("memory")
    if free is None or counted is None:
        return node
    return Node({**node.resources, "memory": min(counted, free)}, node.labels)


def room(config: RunConfig, model: ModelConfig, nodes: Sequence[Node]) -> str:
    """What a run would start; raises ClusterError when there is no room for it."""
    placement = plan_placement(config, nodes, model)
    actors, placeable = placement.num_client_actors, placement.num_placeable
    if placeable == 0:
        asks = ", ".join(f"{name}={value:g}" for name, value in placement.client_options.items() if name.startswith("num_"))
        raise ClusterError(f"no node has room for a client actor, which asks for {asks}; add a node, or lower what it asks for")
    now = "" if placeable == actors else f", {placeable} of them now"
    return (
        f"{total(nodes, 'CPU'):g} CPUs, {total(nodes, 'GPU'):g} GPUs, {total(nodes, 'memory') / 2**30:.1f} GiB free for actors; "
        f"a run would start {actors} client actors{now}, {config.clients.clients_per_round} clients a round"
    )
