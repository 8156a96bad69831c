"""What lies in the directory of a cell from an earlier command: nothing, an unfinished run, a finished one, or another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from cluster.comparison.axes import Cell, tell_faults
from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.loading import load_config

Stage = Literal["new", "unfinished", "finished"]

_WITHOUT_EFFECT = ("name", "cluster.", "checkpoint.keep", "checkpoint.every")
"""Keys, or sections with a dot, that change no result: a cell is gone on with under others."""
_HASH_DIGITS = 16


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
    return "finished" if (folder / "summary.json").is_file() else "unfinished"


def differences(stored: RunConfig, asked: RunConfig) -> list[str]:
    """`rounds=10, asked is 12` for every key that differs and matters."""
    old, new = dict(_flat(stored)), dict(_flat(asked))
    return [
        f"{key}={old.get(key)}, asked is {new.get(key)}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key) and not _is_among(key, _WITHOUT_EFFECT)
    ]


def config_hash(config: RunConfig) -> str:
    """16 hexadecimal digits that two cells share when nothing but the seed tells them apart."""
    ignored = (*_WITHOUT_EFFECT, "checkpoint.path", "seed")
    matters = {key: value for key, value in _flat(config) if not _is_among(key, ignored)}
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()[:_HASH_DIGITS]


def _flat(config: RunConfig) -> Iterator[tuple[str, Any]]:
    yield from _leaves(config.model_dump(mode="json"), "")


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_among(key: str, keys: Sequence[str]) -> bool:
    return any(key.startswith(other) if other.endswith(".") else key == other for other in keys)
