"""From what a node reports to the sentences that say what a run would miss there. No Ray, no side effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.doctor.needs import Needed
from cluster.workers.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What a node says of itself."""

    versions: Mapping[str, str | None]
    """`python` and packages; None: not installed."""
    code: str | None
    """Hash of the sources of our packages; None: they are not all there."""
    broken: Mapping[str, str]
    """Package or module of ours -> why it cannot be imported."""
    gpus: int | None
    """GPUs that torch sees; None: no torch."""
    free_bytes: int | None
    """Free memory; None: not known."""
    missing: Sequence[str]
    """Of the paths that it was asked for, those it cannot read."""


def faults(
    report: NodeReport, node: Node, needed: Sequence[Needed], here: Mapping[str, str | None], code: str | None
) -> list[str]:
    """What a run would miss on a node, a sentence each.

    Args:
        needed: What a run's actors read, on this node or elsewhere.
        here: This machine's versions.
        code: This machine's hash of our sources.
    """
    return [
        *_version_faults(report.versions, here),
        *_import_faults(report.broken),
        *_code_faults(report, code),
        *_gpu_faults(report.gpus, node.resources.get("GPU", 0)),
        *_path_faults(set(report.missing), needed),
    ]


def summary(report: NodeReport, node: Node) -> str:
    """What a node without faults has."""
    memory = "" if report.free_bytes is None else f", {report.free_bytes / 2**30:.1f} GiB free"
    counted = node.resources.get("GPU", 0)
    uncounted = f" (torch sees {report.gpus})" if report.gpus and report.gpus > counted else ""
    return (
        f"versions as here, our packages can be imported, its files are there; "
        f"{node.resources.get('CPU', 0):g} CPUs, {counted:g} GPUs{uncounted}{memory}"
    )


def _version_faults(there: Mapping[str, str | None], here: Mapping[str, str | None]) -> list[str]:
    other = [name for name, version in here.items() if _comparable(name, there.get(name)) != _comparable(name, version)]
    if not other:
        return []
    listed = ", ".join(f"{name} {there.get(name) or 'missing'} (here {here[name] or 'missing'})" for name in other)
    return [f"other versions: {listed}; install the same on every machine, or send them with `submit --runtime-env`"]


def _comparable(name: str, version: str | None) -> str | None:
    """A version without its build (2.9.0+cpu); of Python the first two numbers."""
    if version is None:
        return None
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def _import_faults(broken: Mapping[str, str]) -> list[str]:
    if not broken:
        return []
    return [
        f"cannot import {', '.join(broken)} ({next(iter(broken.values()))}); install the package on the node, or start the run "
        "in a job that brings it (`safe-fedllm submit`, `ray job submit --working-dir .`)"
    ]


def _code_faults(report: NodeReport, code: str | None) -> list[str]:
    if report.code is None or report.code == code:
        return []
    return [f"our packages are of another release (sources {report.code}, here {code}); install the same on every machine"]


def _gpu_faults(seen: int | None, counted: float) -> list[str]:
    if seen is None or seen >= counted:
        return []
    return [
        f"Ray counts {counted:g} GPUs, torch sees {seen}; install a torch build for the node's driver, "
        f"or start the node with --num-gpus {seen}"
    ]


def _path_faults(missing: set[str], needed: Sequence[Needed]) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for item in needed:
        if item.path in missing:
            found.setdefault((item.what, item.fix), []).append(item.path)
    return [
        f"cannot read {what}: {paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}; {fix}"
        for (what, fix), paths in found.items()
    ]
