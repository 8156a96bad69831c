"""What the server reads besides the clients' updates: its prompts, canary and validation rows, reference clients, realignment.

All of it is read before the run starts, with the functions by which the actors read it again: what passes here does not fail
in a round. The embedded world generates what no setting names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.config import EvaluationConfig
from actors.data.evaluation_prompts import read_benign, read_restricted
from actors.data.files import read_table
from actors.data.folders import absolute, data_files
from actors.data.formats.hub import is_hub_name
from actors.data.records import read_checked
from actors.data.references import Reference, split_references
from actors.errors import DataError, given_in
from actors.judge import check_judge
from actors.seeding import stream
from actors.world.datasets import write_canary, write_evaluation, write_realignment, write_validation
from actors.world.generator import World
from actors.world.references import write_references
from cluster.config.schema import RunConfig
from cluster.data.token_files import TokenFiles
from cluster.errors import ConfigError
from cluster.state.membership import Files
from defense.attacks import ATTACKS
from defense.levels import signals_of
from defense.preservation import LEAST_ROWS

LIVE_ROLE = "live_reference+calibration"
"""Families of the embedded world that a refresh during a run trains on; no client and no shipped probe has seen them."""
_SERVER_ROWS = {
    "canary": ("restricted prompts with refusals that no client has", write_canary),
    "validation": ("clean rows of the clients' own tasks", write_validation),
}
"""Signal -> the rows that the server reads for it, and what generates them."""


def evaluation_prompts(config: RunConfig, folder: Path) -> EvaluationConfig:
    """The evaluation's settings with the paths of its prompts; without the files of which no prompt is wanted.

    Raises:
        DataError: a wanted prompt cannot be used; names setting, file and row.
    """
    settings, attack = config.evaluation, ATTACKS[config.clients.attack]
    most = {"restricted_path": settings.max_restricted, "benign_path": settings.max_benign}
    mapping, paths = config.data.columns.given, dict[str, object]()
    for name, read in (("restricted_path", read_restricted), ("benign_path", read_benign)):
        if most[name] and (path := getattr(settings, name)) is not None:
            with given_in(f"evaluation.{name}"):
                read(Path(path), most[name], mapping)
                copied = mapping or is_hub_name(path)  # the evaluation's actor knows neither
                copy = folder / f"{name}.parquet"
                paths[name] = _copy(Path(path), copy, most[name], mapping) if copied else absolute(Path(path))
    if settings.judge.path is not None and Path(settings.judge.path).is_dir():
        paths["judge"] = settings.judge.model_copy(update={"path": absolute(Path(settings.judge.path))})
    settings = settings.model_copy(update=paths | {"utility": config.utility_measure})
    found: dict[str, object] = {"trigger": settings.trigger or (config.attack.backdoor.trigger if attack.has_trigger else None)}
    if config.is_embedded:
        world = World(config.world.seed)
        restricted, benign = write_evaluation(world, folder, settings.max_restricted, settings.max_benign)
        found |= {
            "restricted_path": settings.restricted_path or str(restricted.resolve()),
            "benign_path": settings.benign_path or str(benign.resolve()),
            "refusals": settings.refusals or (None if settings.judge.path else world.language.refusals),
        }
    return settings.model_copy(update=found | {name: None for name, number in most.items() if number == 0})


def _copy(path: Path, to: Path, most: int, mapping: Mapping[str, str]) -> str:
    """Write the first rows under our own names of columns."""
    to.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(read_table(path, mapping=mapping).slice(0, most), to)
    return str(to.resolve())


def check_prompts(evaluation: EvaluationConfig, tokens: TokenFiles) -> None:
    """See that the model can read and answer every prompt, and say whose right answers it cannot read.

    Raises:
        DataError: it cannot; names setting, file and row. ModelError: the judge of the answers cannot be used.
    """
    reader, most = tokens.reader, evaluation.max_new_tokens
    if evaluation.judge.path is not None:
        check_judge(evaluation.judge)
    if (path := evaluation.restricted_path) is not None:
        with given_in("evaluation.restricted_path"):
            for row, prompt in enumerate(read_restricted(Path(path), evaluation.max_restricted)):
                reader.check_prompt(prompt.messages, most, Path(path), row)
    if (path := evaluation.benign_path) is not None:
        with given_in("evaluation.benign_path"):
            prompts = read_benign(Path(path), evaluation.max_benign)
            for row, prompt in enumerate(prompts):
                reader.check_prompt(prompt.messages, most, Path(path), row)
            cut = [row for row, prompt in enumerate(prompts) if not reader.encode(prompt.answered, Path(path), row)]
        if cut:
            tokens.left_out.append(
                f"evaluation.benign_path: {len(cut)} of {len(prompts)} right answers lie beyond training.max_length and are left "
                f"out of the benign loss, such as that of row {cut[0]}"
            )


def server_rows(config: RunConfig, folder: Path, name: Literal["canary", "validation"]) -> str | None:
    """`evaluation.<name>_path`, or what the embedded world generates in its place; None where no setting asks for it.

    Raises:
        ConfigError: your own model, and no file is named. DataError: a row of it cannot be used.
    """
    what, write = _SERVER_ROWS[name]
    path, count = getattr(config.evaluation, f"{name}_path"), getattr(config.evaluation, f"max_{name}")
    needed_by = [f"defense.level={config.defense.level}"] if name in signals_of(config.defense) else []
    if name == "canary":
        asked = {"preservation": config.defense.preservation.enabled, "guard": config.defense.guard.enabled}
        needed_by += [f"defense.{part}.enabled=true" for part, enabled in asked.items() if enabled]
    if not needed_by:
        return None
    if path is not None:
        with given_in(f"evaluation.{name}_path"):
            files = data_files(Path(path)) if name == "validation" else (Path(path),)
            number = sum(read_checked(file, mapping=config.data.columns.given).num_rows for file in files)
            if name == "canary" and number < LEAST_ROWS:
                raise DataError(f"{path} has {number} rows; give {LEAST_ROWS} or more, half to measure by and half to mend by")
    elif config.is_embedded:
        path = write(World(config.world.seed), folder, count)
    else:
        raise ConfigError(
            f"{' and '.join(needed_by)} needs {what}: name a data file with `instruction` and `response` in "
            f"evaluation.{name}_path"
        )
    return absolute(Path(path))


def prepare_references(
    config: RunConfig, folder: Path, clients: int, role: str = LIVE_ROLE, *, key: str = "probe.refresh_clients"
) -> tuple[Reference, ...]:
    """Write the data of `clients` benign and as many malicious reference clients, which the server labels, into `folder`.

    Args:
        role: The families of the embedded world that they train on; your own files do without.
        key: The setting that gave the number of clients.

    Raises:
        ConfigError, DataError: no data is named, it cannot be used, or the role has no families.
    """
    if config.is_embedded:
        try:
            samples = config.training.steps * config.training.batch_size
            return tuple(write_references(World(config.world.seed), folder, role, clients, samples))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    own = (("benign_path", config.collect.benign_path, False), ("malicious_path", config.collect.malicious_path, True))
    references: list[Reference] = []
    for name, path, malicious in own:
        if path is None:
            raise ConfigError(
                f"collect.{name} is not set: name a data file, or a folder of them, with "
                f"{'unsafe' if malicious else 'harmless'} instruction data for the probe's reference clients"
            )
        references += split_references(Path(path), malicious, clients, folder, config.seed, key, config.data.columns.given)
    return tuple(references)


def prepare_realignment(config: RunConfig, folder: Path) -> Files:
    """Write the rows that the server trains on into `folder`; nothing where it does not realign.

    Raises:
        ConfigError: no data is named. DataError: it cannot be used.
    """
    settings = config.realignment
    if not settings.steps:
        return ()
    if config.is_embedded:
        written = write_realignment(World(config.world.seed), folder, settings.samples, settings.refusal_share)
        return (str(written.resolve()),)
    num_refused = round(settings.refusal_share * settings.samples)
    parts = [
        ("evaluation.canary_path", config.evaluation.canary_path, "restricted prompts with refusals", num_refused),
        ("collect.benign_path", config.collect.benign_path, "harmless instruction data", settings.samples - num_refused),
    ]
    return tuple(_draw_rows(config, folder, *part) for part in parts if part[-1])


def _draw_rows(config: RunConfig, folder: Path, key: str, path: str | None, what: str, count: int) -> str:
    """Write a file with `count` of the operator's rows; every row appears equally often, give or take one."""
    if path is None:
        raise ConfigError(
            f"realignment.steps={config.realignment.steps} needs {what} that no client has: name a data file in "
            f"{key}, or set realignment.steps=0"
        )
    with given_in(key):
        table = pa.concat_tables(
            [read_checked(file, mapping=config.data.columns.given) for file in data_files(Path(path))], promote_options="default"
        )
    order = stream(config.seed, "realignment rows", key).permutation(table.num_rows)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"realignment-{key.partition('.')[0]}.parquet"
    pq.write_table(table.take(pa.array(np.resize(order, count))), written)
    return str(written.resolve())
