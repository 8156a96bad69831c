"""All checks in order: this machine, then the cluster: does it let us in and keep strangers out, and has it what actors need?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.text import Text

from actors.config import ModelConfig
from cluster.config.schema import RunConfig
from cluster.doctor.local_checks import (
    Finding,
    attempt,
    check_base_model,
    check_inputs,
    check_versions,
    check_writable,
    folder_in,
    further_packages,
)
from cluster.doctor.node_faults import RequiredFile, model_files, node_faults, required_files, summary
from cluster.doctor.node_report import NodeReport, code_hash, node_report, versions
from cluster.errors import ClusterError
from cluster.ray_connection.authentication import asks_for_token
from cluster.ray_connection.session import ray_session
from cluster.tracking.opening import check_installed
from cluster.workers.nodes import Node, total
from cluster.workers.placement import plan_placement


def check_all(config: RunConfig, runs: Path, timeout_s: float, key: str = "cluster.address") -> Iterator[Finding]:
    """Yield a finding at a time. Starts Ray and a task on every node, but no actor, and loads no model.

    Args:
        runs: Where the run's directory would be made.
        timeout_s: How long the nodes may take to answer.
        key: What gave the address of the cluster, for messages.
    """
    yield attempt("versions", lambda: check_versions(config))
    if config.tracking:
        yield attempt("tracking", lambda: check_installed(config) or ", ".join(config.tracking))
    with folder_in(runs) as folder:
        yield attempt("run directory", lambda: check_writable(str(runs)))
        if config.checkpoint.path is not None:
            yield attempt("checkpoint.path", lambda: check_writable(str(config.checkpoint.path)))
        yield attempt("base model", lambda: check_base_model(config))
        finding, sources = check_inputs(config, folder)
        yield finding
        if sources is not None:
            yield from (Finding("left out of the data", True, what) for what in sources.tokens.take_left_out())
        model, required = (
            (sources.model, required_files(config, sources, folder))
            if sources
            else (config.model, model_files(config, config.model))
        )
        yield from check_cluster(config, model, required, timeout_s, key)


def print_findings(findings: Iterable[Finding], console: Console | None) -> bool:
    """Print to the console as findings come, or as JSON to the standard output without one; returns whether all are ok."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if console is not None:
            mark = Text("ok   ", "green") if finding.ok else Text("wrong", "red")
            console.print(mark, f"{finding.check}: {finding.detail}", soft_wrap=True, highlight=False, markup=False)
    if console is None:
        print(json.dumps([asdict(finding) for finding in seen]))
    return all(finding.ok for finding in seen)


def check_cluster(
    config: RunConfig, model: ModelConfig, required: Sequence[RequiredFile], timeout_s: float, key: str = "cluster.address"
) -> Iterator[Finding]:
    """Connect as a run would, ask every node, and plan the run's actors; without a connection that is the only finding."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    is_own = address is None and not ray.is_initialized()
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_session(config.cluster.address, key))
        except ClusterError as error:
            yield Finding("connection", False, str(error))
            return
        living = [node for node in ray.nodes() if node["Alive"]]
        living.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
        where = "a local Ray that this command starts and ends" if is_own else address or "the connected Ray"
        yield Finding("connection", True, f"{where}: {len(living)} node{'s' if len(living) != 1 else ''}")
        yield attempt("authentication", lambda: _authentication(address, is_own=is_own))
        nodes = {node["NodeID"]: Node(node["Resources"], node["Labels"]) for node in living}
        label = config.cluster.server_label
        wanted = {key: [item.path for item in required if item.on(node, label)] for key, node in nodes.items()}
        further = further_packages(config)
        reports, here = _ask_nodes(wanted, further, timeout_s), versions(further)
        for node in living:
            check = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
            yield from _node_findings(check, nodes[node["NodeID"]], reports[node["NodeID"]], required, here)
        yield attempt("room", lambda: room(config, model, [as_free(node, reports[key]) for key, node in nodes.items()]))


def _authentication(address: str | None, *, is_own: bool) -> str:
    head = address if address and address.startswith("ray://") else ray.get_runtime_context().gcs_address
    if asks_for_token(head):
        return f"{head} asks for a token and takes this machine's"
    if is_own:
        return "the local Ray asks for no token, but ends with this command"
    raise ClusterError(
        f"{head} is open: anyone who reaches it can run code there. On the head: `ray get-auth-token --generate`, then start it "
        "again with RAY_AUTH_MODE=token; give its token to every node and to this machine (SECURITY.md)"
    )


def _ask_nodes(paths: Mapping[str, Sequence[str]], further: Sequence[str], timeout_s: float) -> dict[str, NodeReport | str]:
    """Node id -> its report, or why there is none. Asks all at once, with a task that needs none of our packages there.

    Args:
        paths: Node id -> the paths to look for there.
        further: As in `versions`.
    """
    task, refs = ray.remote(node_report), {}
    for node_id, wanted in paths.items():
        pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
        refs[node_id] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=pinned).remote(wanted, further)
    answered = set(ray.wait(list(refs.values()), num_returns=len(refs), timeout=timeout_s)[0])
    late = f"no answer within {timeout_s:g} s; see whether the node lives, or give it longer with --timeout"
    return {node_id: _answer(ref) if ref in answered else late for node_id, ref in refs.items()}


def _answer(ref: ray.ObjectRef[NodeReport]) -> NodeReport | str:
    try:
        return ray.get(ref)
    except RayError as error:
        return f"could not be asked: {str(error).strip().splitlines()[0]}"


def _node_findings(
    check: str, node: Node, report: NodeReport | str, required: Sequence[RequiredFile], here: Mapping[str, str | None]
) -> Iterator[Finding]:
    """A finding for each fault of a node, or one that says what it has."""
    if isinstance(report, str):
        yield Finding(check, False, report)
        return
    faults = list(node_faults(report, node, required, here, code_hash()))
    yield from (Finding(check, False, fault) for fault in faults)
    if not faults:
        yield Finding(check, True, summary(report, node))


def as_free(node: Node, report: NodeReport | str) -> Node:
    """The node with no more memory than is free on it now; Ray counts the memory from when the node started."""
    free, counted = None if isinstance(report, str) else report["free_bytes"], node.resources.get("memory")
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
