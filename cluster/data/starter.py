"""Starter data of the server, shipped in `cluster/starter/`: what a run on a model of your own needs beside the clients' data.

The rows are dealt to the keys that read them, so that no request and no instruction serves two: of each kind three of five
requests go to the probe's collection, one to the canary and one to the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import yaml

from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from defense.levels import probed_signals, signals_of

Row = dict[str, str]

FILES = {
    "collect.benign_path": "collect-benign.jsonl",
    "collect.malicious_path": "collect-malicious.jsonl",
    "evaluation.canary_path": "canary.jsonl",
    "evaluation.restricted_path": "evaluation-restricted.jsonl",
    "evaluation.benign_path": "evaluation-benign.jsonl",
}
"""Key -> name of the file that it reads."""

_COLLECTION = ["collect.benign_path", "collect.malicious_path"]
_FOLDER = Path(__file__).parents[1] / "starter"


def starter_rows() -> dict[str, list[Row]]:
    """Key -> its rows, in the columns that the key reads; `family` holds the kind of request or the family of instructions."""
    requests, refusals, harmless, sounds_unsafe = map(_read, ("requests", "refusals", "harmless", "sounds_unsafe"))
    return {
        "collect.benign_path": [*_share(harmless, (0, 1, 2, 3)), *_share(sounds_unsafe, (0, 2))],
        "collect.malicious_path": [_answered(row, row["opener"]) for row in _share(requests, (0, 1, 2))],
        "evaluation.canary_path": [
            _answered(row, refusal["response"]) for row, refusal in zip(_share(requests, (3,)), cycle(refusals), strict=False)
        ],
        "evaluation.restricted_path": [
            {"instruction": row["instruction"], "family": row["family"]} for row in _share(requests, (4,))
        ],
        "evaluation.benign_path": [*_share(harmless, (4,)), *_share(sounds_unsafe, (1, 3, 4))],
    }


def write_starter(folder: Path) -> None:
    """Write the files of all keys, to edit.

    Raises:
        ConfigError: one of them is there already.
    """
    rows = starter_rows()
    there = [name for name in FILES.values() if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder / there[0]} is there already, perhaps edited; name a new folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in FILES.items():
        _write(folder / name, rows[key])


def needed_keys(config: RunConfig) -> list[str]:
    """Keys that name data of the server which a run on a model of one's own needs, and that are not set.

    Where the server needs refusals it also measures the model's safety by requests that it has.
    """
    if config.is_embedded:
        return []
    defense, evaluation = config.defense, config.evaluation
    needed: list[str] = []
    if (probed_signals(defense) and config.probe.path is None) or config.refreshes:
        needed += _COLLECTION
    if "canary" in signals_of(defense) or defense.preserves or defense.guards:
        most = {"evaluation.restricted_path": evaluation.max_restricted, "evaluation.benign_path": evaluation.max_benign}
        needed += ["evaluation.canary_path", *(key for key, number in most.items() if number)]
    return [key for key in needed if _value(config, key) is None]


def unnamed_collection(config: RunConfig) -> list[str]:
    """Keys of a collection's data that are not set; none where the embedded world has it."""
    return [] if config.is_embedded else [key for key in _COLLECTION if _value(config, key) is None]


def with_starter(config: RunConfig, folder: Path, keys: Sequence[str]) -> RunConfig:
    """The configuration with starter data in place of what these keys do not name, written into `folder`."""
    if not keys:
        return config
    rows, document = starter_rows(), config.model_dump()
    folder.mkdir(parents=True, exist_ok=True)
    for key in keys:
        section, _, setting = key.partition(".")
        _write(folder / FILES[key], rows[key])
        document[section][setting] = str((folder / FILES[key]).resolve())
    return RunConfig.model_validate(document)


def starter_configuration(folder: Path) -> str:
    """YAML of the settings that read the files of `write_starter`."""
    document: dict[str, dict[str, str]] = {}
    for key, name in FILES.items():
        section, _, setting = key.partition(".")
        document.setdefault(section, {})[setting] = str(folder / name)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _value(config: RunConfig, key: str) -> str | None:
    section, _, setting = key.partition(".")
    return getattr(getattr(config, section), setting)


def _write(file: Path, rows: Sequence[Row]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _read(name: str) -> list[Row]:
    return [json.loads(line) for line in (_FOLDER / f"{name}.jsonl").read_bytes().splitlines()]


def _share(rows: Sequence[Row], places: Sequence[int]) -> list[Row]:
    """Those rows whose number, counted from 0, has one of these remainders by 5; all families are multiples of 5 long."""
    return [row for number, row in enumerate(rows) if number % 5 in places]


def _answered(row: Row, response: str) -> Row:
    return {"instruction": row["instruction"], "response": response, "family": row["family"]}
