"""How many cells run at once, and how many client actors each of them starts: decisions from the nodes, no side effects."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.config.schema import RunConfig
from cluster.data.sources import base_model
from cluster.errors import ClusterError
from cluster.workers.nodes import Node, total
from cluster.workers.placement import SERVER_GPU_SHARE, plan_placement

_ALMOST = 1e-9
_MANY = 1_000_000


def most_at_once(configs: Sequence[RunConfig], nodes: Sequence[Node]) -> int:
    """The most cells that run at once with as many client actors each as alone; 1 where one run takes the whole cluster."""
    for at_once in range(len(configs), 1, -1):
        if all(_has_full_room(config, nodes, at_once) for config in configs):
            return at_once
    return 1


def _has_full_room(config: RunConfig, nodes: Sequence[Node], at_once: int) -> bool:
    try:
        alone = plan_placement(config, nodes, base_model(config)).num_client_actors
        return actors_of_cell(config, nodes, at_once) >= alone
    except ClusterError:
        return False


def actors_of_cell(config: RunConfig, nodes: Sequence[Node], at_once: int) -> int:
    """Client actors of a cell when `at_once` cells share the cluster.

    Raises:
        ClusterError: there is not one actor, or not enough memory, for each.
    """
    actors = _room(config, nodes, at_once) // at_once
    if actors == 0:
        fix = "lower it" if total(nodes, "GPU") < 1 else "lower it, or cluster.gpus_per_client"
        raise ClusterError(f"--parallel {at_once}: the cluster has no room for a client actor of every cell; {fix}")
    actors = min(actors, config.cluster.client_actors or actors)
    part = [Node({**node.resources, **_memory(node, at_once)}, node.labels) for node in nodes]
    try:
        plan_placement(with_actors(config, actors), part, base_model(config))
    except ClusterError as error:
        raise ClusterError(f"--parallel {at_once}: {error}; or lower --parallel") from error
    return actors


def _memory(node: Node, at_once: int) -> dict[str, float]:
    return {"memory": node.resources["memory"] / at_once} if "memory" in node.resources else {}


def _room(config: RunConfig, nodes: Sequence[Node], at_once: int) -> int:
    """Client actors that the cluster holds in all, beside the evaluations of every cell."""
    cluster = config.cluster.model_copy(update={"client_actors": None, "clients_per_actor": None})
    clients = config.clients.model_copy(update={"per_round": None})
    unbounded = config.model_copy(update={"cluster": cluster, "clients": clients})
    bare = [Node({name: value for name, value in node.resources.items() if name != "memory"}, node.labels) for node in nodes]
    placement = plan_placement(unbounded, bare, base_model(config), _MANY)
    share = placement.client_options.get("num_gpus")
    if share is None:
        return placement.num_placeable
    left = total(nodes, "GPU") - at_once * SERVER_GPU_SHARE
    return min(placement.num_placeable, int(left / share + _ALMOST))


def with_actors(config: RunConfig, client_actors: int) -> RunConfig:
    """The configuration with that size of the pool, which changes no result."""
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"client_actors": client_actors})})
