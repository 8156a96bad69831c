"""What a run needs on a node, and what a node's report says is missing there. No Ray, no side effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.config import ModelConfig
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.doctor.node_report import NodeReport
from cluster.workers.nodes import Node

_COPY = "copy it to the node, or name a path on a disk that all nodes share"
_SHARE = "generated and split data is written there: name an --output on a disk that all nodes share"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredFile:
    """A file or folder that actors read by its path."""

    what: str
    """The setting that names it, or a description where no setting does."""
    path: str
    by_clients: bool = True
    by_server: bool = True
    """Evaluation, probe and reference clients."""
    fix: str = _COPY

    def on(self, node: Node, server_label: str | None) -> bool:
        """Whether an actor on that node may read it. Without a label, the server's actors may run on any node."""
        is_server = server_label is None or node.has(server_label)
        hosts_clients = not node.has(server_label) and node.resources.get("CPU", 0) > 0
        return (self.by_server and is_server) or (self.by_clients and hosts_clients)


def required_files(config: RunConfig, sources: Sources, folder: Path) -> list[RequiredFile]:
    """What actors read; all files in `folder`, where the run writes what it generates or splits, count as one."""
    judge = sources.evaluation.judge.path
    of_server = {
        "the probe (probe.path)": sources.probe_path,
        "evaluation.restricted_path": sources.evaluation.restricted_path,
        "evaluation.benign_path": sources.evaluation.benign_path,
        "evaluation.canary_path": sources.canary_path,
        "evaluation.validation_path": next(iter(sources.validation), None),
        "evaluation.judge.path": judge if judge is not None and _is_local(judge) else None,
    }
    found = [RequiredFile(what=what, path=path, by_clients=False) for what, path in of_server.items() if path is not None]
    found[:0] = model_files(config, sources.model)
    outside = [item for item in found if not Path(item.path).is_relative_to(folder)]
    return [*outside, RequiredFile(what="the run directory", path=str(folder), fix=_SHARE)]


def model_files(config: RunConfig, model: ModelConfig) -> list[RequiredFile]:
    """The base model, where it is named by a path."""
    if model.path is None or not (config.is_embedded or _is_local(model.path)):
        return []
    return [RequiredFile(what="the embedded world's base model" if config.is_embedded else "model.path", path=model.path)]


def _is_local(model: str) -> bool:
    """Whether a model is a path rather than a name on a hub; the path may not exist on this machine."""
    return model.startswith(("/", "./", "../", "~")) or Path(model).exists()


def node_faults(
    report: NodeReport, node: Node, required: Sequence[RequiredFile], here: Mapping[str, str | None], code: str | None
) -> Iterator[str]:
    """What a run would miss on a node, a sentence each.

    Args:
        required: What a run's actors read, on this node or elsewhere.
        here: This machine's versions.
        code: This machine's hash of our sources.
    """
    there, broken, seen, counted = report["versions"], report["broken"], report["gpus"], node.resources.get("GPU", 0)
    other = [name for name, version in here.items() if _comparable(name, there.get(name)) != _comparable(name, version)]
    if other:
        listed = ", ".join(f"{name} {there.get(name) or 'missing'} (here {here[name] or 'missing'})" for name in other)
        yield f"other versions: {listed}; install the same on every machine, or send them with `submit --runtime-env`"
    if broken:
        yield (
            f"cannot import {', '.join(broken)} ({next(iter(broken.values()))}); install the package on the node, or start the "
            "run in a job that brings it (`safe-fedllm submit`, `ray job submit --working-dir .`)"
        )
    if report["code"] not in (None, code):
        yield f"our packages are of another release (sources {report['code']}, here {code}); install the same on every machine"
    if seen is not None and seen < counted:
        yield (
            f"Ray counts {counted:g} GPUs, torch sees {seen}; install a torch build for the node's driver, "
            f"or start the node with --num-gpus {seen}"
        )
    missing: dict[tuple[str, str], list[str]] = {}
    for item in required:
        if item.path in report["missing"]:
            missing.setdefault((item.what, item.fix), []).append(item.path)
    for (what, fix), paths in missing.items():
        yield f"cannot read {what}: {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}; {fix}"


def _comparable(name: str, version: str | None) -> str | None:
    """A version without its build (2.9.0+cpu); of Python the first two numbers."""
    if version is None:
        return None
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def summary(report: NodeReport, node: Node) -> str:
    """What a node without faults has."""
    free, gpus, counted = report["free_bytes"], report["gpus"], node.resources.get("GPU", 0)
    memory = "" if free is None else f", {free / 2**30:.1f} GiB free"
    uncounted = f" (torch sees {gpus})" if gpus and gpus > counted else ""
    return (
        f"versions as here, our packages can be imported, its files are there; "
        f"{node.resources.get('CPU', 0):g} CPUs, {counted:g} GPUs{uncounted}{memory}"
    )
