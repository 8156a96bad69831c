"""What the server and the honest clients of a run read, as paths. Which client attacks is not in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from actors.config import EvaluationConfig, ModelConfig
from actors.data.folders import data_files
from actors.data.references import Reference
from actors.world.store import base_folder, is_built, live_probe_folder, probe_folder, world_folder
from cluster.config.schema import RunConfig
from cluster.data.server_data import check_prompts, evaluation_prompts, prepare_realignment, prepare_references, server_rows
from cluster.data.token_files import TokenFiles
from cluster.errors import ConfigError
from cluster.state.membership import Files
from defense.levels import probed_signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that a run's server and clients read."""

    model: ModelConfig
    """With a path, also for the embedded world."""
    evaluation: EvaluationConfig
    """With the paths of the prompts and the phrases of refusals."""
    files: Mapping[str, Files]
    """Client id -> its data files, of the clients that the run begins with."""
    tokens: TokenFiles
    """The encoded files of every client, under its id; what clients train on."""
    probe_path: str | None
    """None where no level needs a probe, or where one has to be made first (`cluster/probes/own_probe.py`)."""
    canary_path: str | None = None
    """Encoded restricted prompts with refusals, for level canary, preservation and the guard; None where none is on."""
    validation: Files = ()
    """Encoded clean rows of the clients' own tasks, a file for each, for levels utility, fltrust and zeno; empty where none of
    these is on."""
    references: tuple[Reference, ...] = ()
    """Reference clients that the probe is refreshed with; empty when it never is."""
    realignment: Files = ()
    """Encoded rows that the server fine-tunes the final adapter on; empty where it does not."""


def find_sources(config: RunConfig, folder: Path, files: Mapping[str, Files], tokens: TokenFiles) -> Sources:
    """Check and encode what the server reads, and write into `folder` what it generates.

    Args:
        folder: The run's data folder.
        files: Client id -> its data files.
        tokens: Where they have been encoded, and the server's rows will be.

    Raises:
        ConfigError, DataError, ModelError: something is missing or cannot be used.
    """
    evaluation, num_references = evaluation_prompts(config, folder), config.probe.refresh_clients
    check_prompts(evaluation, tokens)
    references = prepare_references(config, folder / "references", num_references) if config.refreshes else ()
    realignment = prepare_realignment(config, folder / "realignment")
    return Sources(
        model=base_model(config),
        evaluation=evaluation,
        files=files,
        tokens=tokens,
        probe_path=_probe_path(config),
        canary_path=_server_tokens(config, folder, "canary", tokens),
        validation=_tasks(config, folder, tokens),
        references=tuple(encoded_reference(reference, tokens) for reference in references),
        realignment=tokens.encode("realignment", realignment) if realignment else (),
    )


def encoded_reference(reference: Reference, tokens: TokenFiles) -> Reference:
    """The reference client with its files encoded."""
    return replace(reference, files=tokens.encode(f"reference-{reference.label.client}", reference.files))


def _server_tokens(config: RunConfig, folder: Path, name: Literal["canary", "validation"], tokens: TokenFiles) -> str | None:
    path = server_rows(config, folder, name)
    return None if path is None else tokens.encode(name, (path,), f"evaluation.{name}_path")[0]


def _tasks(config: RunConfig, folder: Path, tokens: TokenFiles) -> Files:
    """A token file for each file of validation rows."""
    path = server_rows(config, folder, "validation")
    files, key = [] if path is None else data_files(Path(path)), "evaluation.validation_path"
    return tuple(tokens.encode(f"validation-{number}", (str(file),), key)[0] for number, file in enumerate(files, 1))


def base_model(config: RunConfig) -> ModelConfig:
    """The base model with its path, also for the embedded world; a directory's path is absolute, as actors may run elsewhere.

    Raises:
        ConfigError: the world is not built; names the command that builds it.
    """
    if not config.is_embedded:
        path = Path(str(config.model.path))
        return config.model.model_copy(update={"path": str(path.resolve())}) if path.is_dir() else config.model
    return config.model.model_copy(update={"path": str(base_folder(_built_world(config)).resolve())})


def _built_world(config: RunConfig) -> Path:
    """Folder of the embedded world's base model and probes."""
    folder = Path(config.world.path) if config.world.path else world_folder(config.world.seed)
    if not is_built(folder):
        raise ConfigError(
            f"world.seed={config.world.seed} is not built ({folder}); "
            f"build it once with: safe-fedllm world build world.seed={config.world.seed}"
        )
    return folder


def _probe_path(config: RunConfig) -> str | None:
    sources = probed_signals(config.defense)
    if not sources:
        return None
    if config.probe.path is not None:
        return str(Path(config.probe.path).resolve())
    if config.is_embedded:
        reads_updates_only = sources == {"update"}
        return str((live_probe_folder if reads_updates_only else probe_folder)(_built_world(config)).resolve())
    return None
