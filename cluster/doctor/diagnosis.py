"""The checks in their order: this machine, where the run writes, what it reads, then the cluster."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actors.errors import SafeFedError
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources, prepare_sources
from cluster.doctor.cluster_checks import check_cluster
from cluster.doctor.finding import Finding, tried
from cluster.doctor.needs import needs
from cluster.doctor.node_report import versions
from cluster.errors import ClusterError, DeadlineError
from cluster.state.checkpoints import Checkpoints
from cluster.workers.worker_group import load_probe_meta

_WRITE_TIMEOUT_S = 30.0


def diagnose(config: RunConfig, runs: Path, timeout_s: float) -> Iterator[Finding]:
    """A finding at a time. Starts Ray and a task on every node, no actor; loads no model.

    Args:
        runs: Where the run's directory would be made.
        timeout_s: How long the nodes may take to answer.
    """
    yield tried("versions", _versions_here)
    with _folder_in(runs) as folder:
        yield tried("run directory", lambda: check_writable(str(runs)))
        if config.checkpoint.path is not None:
            yield tried("checkpoint.path", lambda: check_writable(str(config.checkpoint.path)))
        finding, sources = _inputs(config, folder)
        yield finding
        model, needed = (sources.model, needs(config, sources, folder)) if sources else (config.model, [])
        yield from check_cluster(config, model, needed, timeout_s)


def _versions_here() -> str:
    found = versions()
    absent = [name for name, version in found.items() if version is None]
    if absent:
        raise ClusterError(f"this machine lacks {', '.join(absent)}; install with: pip install {' '.join(absent)}")
    return ", ".join(f"{name} {version}" for name, version in found.items())


@contextmanager
def _folder_in(runs: Path) -> Iterator[Path]:
    """A folder beside the run directories, for the nodes to look for; elsewhere when none can be made there."""
    is_new = not runs.exists()
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".doctor-", dir=runs)
    except OSError:
        folder = tempfile.mkdtemp(prefix="doctor-")
    try:
        yield Path(folder).resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                runs.rmdir()


def check_writable(location: str) -> str:
    """Try a place where a run would write; in a thread, for a store that does not answer holds its client up for minutes.

    Raises:
        CheckpointError, ConfigError: it cannot be written. DeadlineError: it does not answer.
    """
    outcome: queue.Queue[Exception | None] = queue.Queue()

    def write() -> None:
        try:
            Checkpoints(location, keep=1).check_writable()
            outcome.put(None)
        except SafeFedError as error:
            outcome.put(error)

    threading.Thread(target=write, daemon=True).start()
    try:
        error = outcome.get(timeout=_WRITE_TIMEOUT_S)
    except queue.Empty:
        raise DeadlineError(f"writing to {location} took longer than {_WRITE_TIMEOUT_S:g} s") from None
    if error is not None:
        raise error
    return f"{location} can be written"


def _inputs(config: RunConfig, folder: Path) -> tuple[Finding, Sources | None]:
    check = "model, data, prompts and probe"
    try:
        sources = prepare_sources(config, folder)
        meta = load_probe_meta(config, sources)
    except (SafeFedError, OSError) as error:
        return Finding(check, False, str(error)), None
    probe = f"probe {meta.feature} at threshold {config.probe.threshold or meta.threshold:g}" if meta else "no probe"
    return Finding(check, True, f"{sources.model.path}, {len(sources.files)} clients, {probe}"), sources
