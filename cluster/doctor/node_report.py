"""What a machine says of itself, for `doctor`. Only the standard library: it is sent to nodes that may lack our packages."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "transformers", "peft", "safetensors", "xgboost", "pyarrow")
OURS = ("actors", "probe", "defense", "cluster")
_ACTOR_MODULES = ("actors.client", "actors.probe", "actors.aggregator", "actors.evaluation", "cluster.live.control")
"""Where the classes of a run's actors are; they bring torch, transformers and peft with them."""
_HIDES_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def _sent_whole(function: Callable) -> Callable:
    """Let Ray send a function itself: one that belongs to a module is sent by name, and imported on the node."""
    function.__module__ = "__main__"
    return function


@_sent_whole
def node_report(paths: Sequence[str]) -> dict[str, Any]:
    """Plain data; `NodeReport` in inspection.py says what each field means. Imports torch into this process."""
    for name in _HIDES_GPUS:  # Ray hides every GPU from a task that asks for none
        os.environ.pop(name, None)
    return {
        "versions": versions(),
        "code": code_hash(),
        "broken": broken_imports((*OURS, *_ACTOR_MODULES)),
        "gpus": visible_gpus(),
        "free_bytes": free_bytes(),
        "missing": [path for path in paths if not os.access(path, os.R_OK)],
    }


@_sent_whole
def versions() -> dict[str, str | None]:
    """Of Python and of the packages that a run needs; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


@_sent_whole
def code_hash() -> str | None:
    """Of the sources of our four packages; None when one of them is not found."""
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


@_sent_whole
def broken_imports(modules: Sequence[str]) -> dict[str, str]:
    """Module -> why it cannot be imported; a module is left out when its package cannot be."""
    broken: dict[str, str] = {}
    for module in modules:
        if module.partition(".")[0] in broken:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises is what we came to find
            broken[module] = f"{type(error).__name__}: {error}".splitlines()[0]
    return broken


@_sent_whole
def visible_gpus() -> int | None:
    """GPUs that torch can use; None when it cannot be asked."""
    try:
        return importlib.import_module("torch").cuda.device_count()
    except Exception:  # torch is missing or broken, which `versions` and `broken_imports` tell
        return None


@_sent_whole
def free_bytes() -> int | None:
    """Memory that a new process could have, by the machine's and, in a container, by its own limit; None: not known."""
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
