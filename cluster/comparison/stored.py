"""What lies in the directory of a cell from an earlier command: nothing, an unfinished run, a finished one, or another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cluster.comparison.axes import Cell, tell_faults
from cluster.comparison.fingerprints import differences
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

Stage = Literal["new", "unfinished", "finished"]

_SURPLUS = ("checkpoints", "data", "probes")
"""Folders of a run that only going on with it, or another run, could need."""


def find_stages(cells: Sequence[Cell], folder: Path) -> list[Stage]:
    """How far each cell is.

    Raises:
        ConfigError: directories that hold something else, all of them, each with the key that differs.
    """
    stages, faults = [], {}
    for cell in cells:
        try:
            stages.append(find_stage(folder / cell.name, cell.config))
        except ConfigError as error:
            faults[cell.label] = str(error)
    if faults:
        raise ConfigError(tell_faults(faults, len(cells)))
    return stages


def find_stage(folder: Path, config: RunConfig) -> Stage:
    """How far the run in this directory is; raises ConfigError when it is not a run of this configuration."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "new"
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} holds no run; name another --output, or remove it")
    try:
        stored = load_config(folder / "config.yaml")
    except ConfigError as error:
        raise ConfigError(f"{folder} holds a run that cannot be read ({error}); name another --output, or remove it") from error
    if changed := differences(stored, config):
        raise ConfigError(f"{folder} was run with {'; '.join(changed)}; name another --output, or remove it")
    return "finished" if _has_finished(folder) else "unfinished"


def is_finished(summary: Mapping[str, Any]) -> bool:
    """Whether the run of this summary has no more rounds: all are done, or safety fell under `evaluation.stop_below`.

    One that somebody stopped has a summary too, and goes on.
    """
    return summary["rounds_done"] == summary["rounds"] or summary.get("stopped_below") is not None


def _has_finished(folder: Path) -> bool:
    path = folder / "summary.json"
    return path.is_file() and is_finished(json.loads(path.read_text()))


def drop_surplus(folder: Path) -> None:
    """Remove what nobody needs of a finished run: its checkpoints, the data that it generated and the versions of its probe.

    Raises:
        ValueError: the run is not finished.
    """
    if not _has_finished(folder):
        raise ValueError(f"{folder} is not finished; what it needs to go on stays")
    for path in (folder / name for name in _SURPLUS):
        if path.is_dir():
            shutil.rmtree(path)
