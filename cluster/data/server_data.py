"""What the server reads besides the clients' updates: prompts of the evaluation, canary, validation data. All read at the start.

The actors read them again with the same functions, so what passes here does not fail in a round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from actors.config import EvaluationConfig
from actors.data.prompts import read_benign, read_restricted
from actors.data.records import read_checked
from actors.errors import given_in
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.levels import sources_of


def wanted_prompts(config: EvaluationConfig) -> EvaluationConfig:
    """Without the files of which no prompt is wanted."""
    most = {"restricted_path": config.max_restricted, "benign_path": config.max_benign}
    return config.model_copy(update={name: None for name, number in most.items() if number == 0})


def check_prompts(config: EvaluationConfig) -> None:
    """Raises DataError that names setting, file and row when a prompt that is wanted cannot be used."""
    readers = {"restricted_path": (read_restricted, config.max_restricted), "benign_path": (read_benign, config.max_benign)}
    for name, (read, most) in readers.items():
        path = getattr(wanted_prompts(config), name)
        if path is not None:
            with given_in(f"evaluation.{name}"):
                read(Path(path), most)


def canary_path(config: RunConfig, generate: Callable[[], Path] | None) -> str | None:
    """Restricted prompts with refusals, for level canary and the guard; None where neither is on.

    Args:
        generate: Writes them where no file is named; None: nothing can.

    Raises:
        ConfigError: no file is named. DataError: a row of it cannot be used.
    """
    level, guard = config.defense.level, config.defense.guard
    asking = {f"defense.level={level}": "canary" in config.defense.levels, "defense.guard.enabled=true": guard.enabled}
    return _server_rows(config, "canary_path", asking, "restricted prompts with refusals that no client has", generate)


def validation_path(config: RunConfig, generate: Callable[[], Path] | None) -> str | None:
    """Clean rows of the clients' own task, for levels fltrust and zeno; otherwise as `canary_path`."""
    asking = {f"defense.level={config.defense.level}": "validation" in sources_of(config.defense)}
    return _server_rows(config, "validation_path", asking, "clean rows of the clients' own task", generate)


def _server_rows(
    config: RunConfig, name: str, asking: Mapping[str, bool], what: str, generate: Callable[[], Path] | None
) -> str | None:
    """The file of `evaluation.name`, or one that the world generates; None where no setting asks for it."""
    needed_by, path = [setting for setting, asks in asking.items() if asks], getattr(config.evaluation, name)
    if not needed_by:
        return None
    if path is not None:
        with given_in(f"evaluation.{name}"):
            read_checked(Path(path))
        return str(Path(path).resolve())
    if generate is not None:
        return str(generate().resolve())
    raise ConfigError(
        f"{' and '.join(needed_by)} needs {what}: name a Parquet or JSONL file with `instruction` and `response` in "
        f"evaluation.{name}"
    )
