"""What an earlier command left in the directory of a cell: nothing, an unfinished run, a finished one, or another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cluster.comparison.cells import differences
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.state.checkpoints import with_absolute_place
from cluster.state.run_directory import is_vacant

Stage = Literal["new", "unfinished", "finished"]

_SURPLUS = ("checkpoints", "data", "probes")
"""Folders that a finished run does not need."""


def find_stage(folder: Path, config: RunConfig) -> Stage:
    """How far the run in this directory is; raises ConfigError when it is not a run of this configuration."""
    if is_vacant(folder):
        return "new"
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} holds no run; name another --output, or remove it")
    try:
        stored = load_config(folder / "config.yaml")
    except ConfigError as error:
        raise ConfigError(f"{folder} holds a run that cannot be read ({error}); name another --output, or remove it") from error
    if changed := differences(stored, with_absolute_place(config)):
        raise ConfigError(f"{folder} was run with {'; '.join(changed)}; name another --output, or remove it")
    return "finished" if _has_finished(folder) else "unfinished"


def is_finished(summary: Mapping[str, object]) -> bool:
    """Whether the run of this summary has no more rounds: all are done, or safety fell under `evaluation.stop_below`.

    A run that somebody stopped has a summary too, and can be resumed.
    """
    return summary["rounds_done"] == summary["rounds"] or summary.get("stopped_below") is not None


def drop_surplus(folder: Path) -> None:
    """Remove a finished run's checkpoints, the data that it generated and the versions of its probe; other runs need them."""
    for path in (folder / name for name in _SURPLUS):
        if path.is_dir() and _has_finished(folder):
            shutil.rmtree(path)


def _has_finished(folder: Path) -> bool:
    path = folder / "summary.json"
    return path.is_file() and is_finished(json.loads(path.read_text()))
