"""How many actors a run starts, where, and what each asks Ray for: a decision from the nodes, no side effects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.config import ModelConfig
from cluster.config.schema import RunConfig
from cluster.errors import ClusterError
from cluster.workers.nodes import Node, total
from defense.levels import signals_of

SERVER_GPU_SHARE = 0.2
"""Of a GPU, for the server's own models together: the evaluation's, and the canary's and validation's where they are asked."""
_PROCESS_BYTES = 450 << 20
"""Resident memory of an actor process with torch, transformers and peft imported, without a model; measured."""
_BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTISED_BYTES = {"8bit": 1.0, "4bit": 0.516}
"""Of a value of a linear weight, with its scales: in 4 bits one of 8 bits for 64 values (Dettmers et al. 2023, section 3)."""
_ALMOST = 1e-9
"""Slack when shares of a resource are counted: 0.2 five times is one."""

Options = dict[str, Any]
"""Options of Ray's `.options()`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What to start."""

    num_client_actors: int
    """As many as are wanted; those for which there is no room yet wait for nodes that join."""
    num_placeable: int
    """How many of them the present nodes have room for."""
    client_options: Options
    evaluation_options: Options
    """Of the evaluation, which goes where the GPUs are."""
    server_data_options: Options
    """Of canary and validation, whose data stay on the server's nodes: where these have no GPU, on a CPU of theirs."""
    shares_model: bool
    """Whether canary and evaluation lie on the same nodes, so that one actor with one model can be both."""
    server_options: Options
    """Probe and aggregator: they need no reservation of their own on a small machine."""
    num_reference_actors: int = 0
    """Actors on the server's nodes for the reference clients and the realignment; 0: these share the clients' actors."""
    reference_options: Options = field(default_factory=dict)


def plan_placement(config: RunConfig, nodes: Sequence[Node], model: ModelConfig, num_clients: int | None = None) -> Placement:
    """Decide from the living nodes; `num_clients`: clients that take part, None: clients.count.

    Raises:
        ClusterError: the nodes cannot hold what is asked for; names what is missing.
    """
    label, number = config.cluster.server_label, num_clients or config.clients.count
    servers, hosts = _divide(nodes, label)
    clients = min(number, config.clients.per_round or number)
    references = 2 * config.probe.refresh_clients if config.refreshes else 0
    placement = _plan(config, hosts, servers, model, clients + (0 if label else references))
    trainings = references or int(config.realignment.steps > 0)
    if label is None or not trainings:
        return placement
    return replace(
        placement,
        num_reference_actors=_actors_on_servers(config, servers, trainings),
        reference_options=_shares(config, servers) | _selector(label, inside=True),
    )


def plan_collection(config: RunConfig, nodes: Sequence[Node], model: ModelConfig, num_references: int) -> Placement:
    """As `plan_placement`, where only reference clients train: on the server's nodes, when they are labelled."""
    label = config.cluster.server_label
    servers, hosts = _divide(nodes, label)
    if label is None:
        return _plan(config, hosts, (), model, num_references)
    _actors_on_servers(config, servers, num_references)
    placement = _plan(config, servers, (), model, num_references)
    return replace(placement, client_options=_shares(config, servers) | _selector(label, inside=True))


def _divide(nodes: Sequence[Node], label: str | None) -> tuple[list[Node], list[Node]]:
    """The server's nodes, and those for clients."""
    servers = [node for node in nodes if node.has(label)]
    if label is not None and not servers:
        raise ClusterError(
            f"cluster.server_label={label}: no node carries that label; start one with `ray start --labels {label}`"
        )
    return servers, [node for node in nodes if not node.has(label)]


def _plan(config: RunConfig, hosts: Sequence[Node], servers: Sequence[Node], model: ModelConfig, trainings: int) -> Placement:
    shares, label = _shares(config, hosts), config.cluster.server_label
    on_gpu = "num_gpus" in shares
    evaluates_on_server = bool(servers) and (not on_gpu or total(servers, "GPU") >= 1)
    room = sum(_fits(node, shares) for node in (hosts if evaluates_on_server else _without_evaluation(hosts)))
    if room == 0 and on_gpu and total(hosts, "GPU") >= 1:
        raise ClusterError(
            f"cluster.gpus_per_client={shares['num_gpus']:g}: beside the evaluation's {SERVER_GPU_SHARE} no node has that "
            f"much left (the cluster has {total(hosts, 'GPU'):g} GPUs); lower it, or add a GPU"
        )
    per_actor = config.cluster.clients_per_actor
    wanted = config.cluster.client_actors or (math.ceil(trainings / per_actor) if per_actor else max(1, room))
    wanted = min(wanted, trainings)
    inside, server_data_apart = _selector(label, inside=True), bool(servers) and not evaluates_on_server
    reads = signals_of(config.defense)  # the evaluation, canary and validation hold the base model where they are asked
    has_canary = "canary" in reads or config.defense.preserves or config.defense.guards
    models = 1 + (has_canary and server_data_apart) + ("validation" in reads)
    _check_memory(min(wanted, room), models, model, hosts, on_gpu=on_gpu)
    sharing = 1 if server_data_apart else models
    evaluation = {"num_gpus": SERVER_GPU_SHARE / sharing, "num_cpus": 0} if on_gpu else {"num_cpus": 0}
    evaluation |= inside if evaluates_on_server else {}
    return Placement(
        num_client_actors=wanted,
        num_placeable=min(wanted, room),
        client_options=shares | _selector(label, inside=False),
        evaluation_options=evaluation,
        server_data_options={"num_cpus": 0} | inside if server_data_apart else evaluation,
        shares_model=not server_data_apart,
        server_options={"num_cpus": 0} | inside,
    )


def _actors_on_servers(config: RunConfig, servers: Sequence[Node], references: int) -> int:
    """How many actors train reference clients on the server's own nodes, where their data stays."""
    shares = _shares(config, servers)
    room = sum(_fits(node, shares) for node in servers)
    if room == 0:
        asks = ", ".join(f"{name}={value:g}" for name, value in shares.items())
        raise ClusterError(
            f"cluster.server_label={config.cluster.server_label}: the nodes with that label have no room for a reference client, "
            f"which asks for {asks} as a client does; give them such a node, or set probe.refresh_every=0 and realignment.steps=0"
        )
    return min(room, references)


def _shares(config: RunConfig, hosts: Sequence[Node]) -> Options:
    """What a client actor asks for: a GPU where there are any or the configuration names a share, else a CPU."""
    cpus, number = max(total(hosts, "CPU"), 1.0), config.cluster.client_actors
    if config.cluster.gpus_per_client is None and total(hosts, "GPU") < 1:
        return {"num_cpus": min(1.0, cpus / number) if number else 1.0}  # a fixed number of actors shares the CPUs there are
    share = config.cluster.gpus_per_client or 1 - SERVER_GPU_SHARE
    actors = number or max(1, sum(_gpu_fits(node, share) for node in hosts))
    return {"num_gpus": share, "num_cpus": min(1.0, cpus / (actors + 1))}


def _without_evaluation(nodes: Sequence[Node]) -> list[Node]:
    """The nodes with what the server's models leave of the first GPU."""
    nodes, first = list(nodes), next((i for i, node in enumerate(nodes) if node.resources.get("GPU", 0) >= 1), None)
    if first is not None:
        gpus = nodes[first].resources["GPU"]
        nodes[first] = Node({**nodes[first].resources, "GPU": gpus - SERVER_GPU_SHARE}, nodes[first].labels)
    return nodes


def _fits(node: Node, shares: Mapping[str, float]) -> int:
    """How many client actors one node holds."""
    by_cpu = int(node.resources.get("CPU", 0) / shares["num_cpus"] + _ALMOST)
    return min(by_cpu, _gpu_fits(node, shares["num_gpus"])) if "num_gpus" in shares else by_cpu


def _gpu_fits(node: Node, share: float) -> int:
    """A share below 1 lies on one GPU; the last GPU may be partly taken."""
    gpus = node.resources.get("GPU", 0)
    if share >= 1:
        return int(gpus / share + _ALMOST)
    return int(gpus) * int(1 / share + _ALMOST) + int((gpus % 1) / share + _ALMOST)


def _selector(label: str | None, *, inside: bool) -> Options:
    if label is None:
        return {}
    key, _, value = label.partition("=")
    return {"label_selector": {key: value if inside else f"!{value}"}}


def _check_memory(num_actors: int, server_models: int, model: ModelConfig, hosts: Sequence[Node], *, on_gpu: bool) -> None:
    if not any("memory" in node.resources for node in hosts):
        return
    available, per_actor = total(hosts, "memory"), _PROCESS_BYTES + (0 if on_gpu else model_bytes(model))
    needed = (num_actors + server_models) * per_actor
    if needed > available:
        raise ClusterError(
            f"cluster.client_actors={num_actors} and the server's {server_models} need about {needed / 2**30:.1f} GiB "
            f"({per_actor / 2**30:.1f} GiB each), the cluster has {available / 2**30:.1f} GiB: "
            f"set cluster.client_actors to {max(1, int(available // per_actor) - server_models)}, or add memory"
        )


def model_bytes(model: ModelConfig) -> int:
    """Size of the base model in memory, from the files of a local directory; 0 when it is not known."""
    files = list(Path(model.path).glob("*.safetensors")) if model.path and Path(model.path).is_dir() else []
    shapes = [shape for path in files for shape in _shapes(path)]
    kept = max((shape[0] for shape in shapes if len(shape) == 2), default=0)  # rows of embeddings and head: the vocabulary
    plain = _BYTES_PER_VALUE[model.dtype]
    linear = plain if model.quantization is None else _QUANTISED_BYTES[model.quantization]
    return math.ceil(sum(math.prod(shape) * (linear if len(shape) == 2 and shape[0] != kept else plain) for shape in shapes))


def _shapes(path: Path) -> list[Sequence[int]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as tensors:
        return [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 - no mapping
