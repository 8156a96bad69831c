"""The checks of this machine: its packages, the places that a run writes to, and the inputs that it reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from actors.errors import SafeFedError
from actors.model.check import check_base
from actors.model.quantization import LIBRARY
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources, base_model
from cluster.doctor.node_report import versions
from cluster.errors import ClusterError, ConfigError, DeadlineError
from cluster.probes.suitability import load_suited
from cluster.simulation.simulation import prepare_sources
from cluster.state.checkpoints import Checkpoints
from cluster.state.run_directory import is_vacant
from defense.levels import probed_signals

_WRITE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    ok: bool
    detail: str
    """What there is; or what is wrong, and what to do."""


def attempt(check: str, call: Callable[[], str]) -> Finding:
    """The finding of a check that returns what there is, or raises what is wrong."""
    try:
        return Finding(check, True, call())
    except (SafeFedError, OSError) as error:
        return Finding(check, False, str(error))


def further_packages(config: RunConfig) -> tuple[str, ...]:
    """Packages that this run needs on each node, beside those that every run does."""
    return (LIBRARY,) if config.model.quantization else ()


def check_versions(config: RunConfig) -> str:
    """The versions of all packages that a run needs; raises ClusterError when one is missing."""
    found = versions(further_packages(config))
    absent = [name for name, version in found.items() if version is None]
    if absent:
        raise ClusterError(f"this machine lacks {', '.join(absent)}; install with: pip install {' '.join(absent)}")
    return ", ".join(f"{name} {version}" for name, version in found.items())


@contextmanager
def folder_in(runs: Path) -> Iterator[Path]:
    """A temporary folder beside the run directories, for the nodes to look for; elsewhere when none can be made there."""
    is_new = not runs.exists()
    try:
        runs.mkdir(parents=True, exist_ok=True)
        made = TemporaryDirectory(prefix=".doctor-", dir=runs, ignore_cleanup_errors=True)
    except OSError:
        made = TemporaryDirectory(prefix="doctor-", ignore_cleanup_errors=True)
    try:
        with made as folder:
            yield Path(folder).resolve()
    finally:
        if is_new:
            with suppress(OSError):
                runs.rmdir()


def check_writable(location: str) -> str:
    """Write where a run would write. A thread does it, because a store that does not answer can block its client for minutes.

    Raises:
        CheckpointError, ConfigError: it cannot be written. DeadlineError: it does not answer.
    """
    outcome: Future[None] = Future()

    def write() -> None:
        try:
            outcome.set_result(Checkpoints(location, keep=1).check_writable())
        except SafeFedError as error:
            outcome.set_exception(error)

    threading.Thread(target=write, daemon=True).start()
    try:
        outcome.result(timeout=_WRITE_TIMEOUT_S)
    except TimeoutError:
        raise DeadlineError(f"writing to {location} took longer than {_WRITE_TIMEOUT_S:g} s") from None
    return f"{location} can be written"


def check_new(output: Path) -> str:
    """Raises ConfigError where the run directory holds anything, or cannot be read."""
    if not is_vacant(output):
        raise ConfigError(f"--output {output} is not empty; name a new or empty directory")
    return f"{output} is free"


def check_base_model(config: RunConfig) -> str:
    """The base model's class and size, and what of it LoRA trains; its weights are not loaded.

    Raises:
        ConfigError: the embedded world is not built. ModelError: the base or lora.target_modules cannot be used.
    """
    model = base_model(config)
    found = check_base(model, config.lora)
    return (
        f"{model.path}: {found.model_class}, {found.parameters / 1e6:,.2f} M parameters; LoRA: {found.lora_tensors} tensors "
        f"with {found.lora_values:,} values, {found.lora_values * 4 / 1e6:,.2f} MB per update"
    )


def check_inputs(config: RunConfig, folder: Path) -> tuple[Finding, Sources | None]:
    """Prepare and load what a run reads, with generated and split data in `folder`; no sources where something is wrong."""
    check = "model, data, prompts and probe"
    try:
        sources = prepare_sources(config, folder)
        makes_probe = sources.probe_path is None and bool(probed_signals(config.defense))
        meta = None if makes_probe else load_suited(config, sources.probe_path)
    except (SafeFedError, OSError) as error:
        return Finding(check, False, str(error)), None
    fixed = (
        "" if meta is None or "live" in config.defense.levels else f" at threshold {config.probe.threshold or meta.threshold:g}"
    )
    probe = f"probe {meta.feature}{fixed}" if meta else ("a probe that the run makes first" if makes_probe else "no probe")
    return Finding(check, True, f"{sources.model.path}, {len(sources.files)} clients, {probe}"), sources
