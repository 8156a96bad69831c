"""What a node has, for `doctor`. Standard library only: Ray sends the code to nodes that may lack our packages."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

PACKAGES = ("ray", "torch", "transformers", "peft", "safetensors", "xgboost", "pyarrow")
OURS = ("actors", "probe", "defense", "cluster")
ACTOR_MODULES = ("actors.client", "actors.probe", "actors.aggregator", "actors.evaluation", "cluster.live.control")
"""The modules of a run's actors; they import torch, transformers and peft."""


class NodeReport(TypedDict):
    """What a node says of itself."""

    versions: Mapping[str, str | None]
    """`python` and packages; None: not installed."""
    code: str | None
    """Hash of the sources of our packages; None: one of them is missing."""
    broken: Mapping[str, str]
    """Package or module of ours -> why it cannot be imported."""
    gpus: int | None
    """GPUs that torch sees; None: no torch."""
    free_bytes: int | None
    """Free memory; None: unknown."""
    missing: Sequence[str]
    """The requested paths that the node cannot read."""


def node_report(paths: Sequence[str], further: Sequence[str]) -> NodeReport:
    """Imports torch into this process; `further`: as in `versions`."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):  # Ray hides every GPU from a task that asks for none.
        os.environ.pop(name, None)
    return {
        "versions": versions(further),
        "code": code_hash(),
        "broken": broken_imports((*OURS, *ACTOR_MODULES)),
        "gpus": visible_gpus(),
        "free_bytes": free_bytes(),
        "missing": [path for path in paths if not os.access(path, os.R_OK)],
    }


def versions(further: Sequence[str] = ()) -> dict[str, str | None]:
    """Of Python and of the packages that a run needs; None: not installed.

    Args:
        further: Packages that this run needs beside those that every run does.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*PACKAGES, *further):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def code_hash() -> str | None:
    """Of the sources of our four packages; None when one of them is missing."""
    digest = hashlib.sha256()
    for package in OURS:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder).as_posix()}".encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def broken_imports(modules: Sequence[str]) -> dict[str, str]:
    """Module -> why it cannot be imported; the modules of a broken package are left out."""
    broken: dict[str, str] = {}
    for module in modules:
        if module.partition(".")[0] in broken:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # A broken installation may raise anything.
            broken[module] = f"{type(error).__name__}: {error}".splitlines()[0]
    return broken


def visible_gpus() -> int | None:
    """GPUs that torch can use; None when torch is missing or broken, which `versions` and `broken_imports` report."""
    try:
        return importlib.import_module("torch").cuda.device_count()
    except Exception:
        return None


def free_bytes() -> int | None:
    """Memory that a new process could have, within the machine's limit and the container's; None: unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = next(line for line in (folder / "memory.stat").read_text().splitlines() if line.startswith("inactive_file "))
    except (OSError, StopIteration):
        return free
    return free if limit == "max" else min(free, int(limit) - int(used) + int(cached.split()[1]))


for function in (node_report, versions, code_hash, broken_imports, visible_gpus, free_bytes):
    function.__module__ = (
        "__main__"  # Ray sends it whole; it sends a function of a module by name, and the node would import ours.
    )
