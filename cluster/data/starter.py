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

from cluster.errors import ConfigError

Row = dict[str, str]

FILES = {
    "collect.benign_path": "collect-benign.jsonl",
    "collect.malicious_path": "collect-malicious.jsonl",
    "evaluation.canary_path": "canary.jsonl",
    "evaluation.restricted_path": "evaluation-restricted.jsonl",
    "evaluation.benign_path": "evaluation-benign.jsonl",
}
"""Key -> name of the file that it reads."""

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
        (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[key]), encoding="utf-8")


def starter_configuration(folder: Path) -> str:
    """YAML of the settings that read the files of `write_starter`."""
    rows, document = starter_rows(), {}
    for key, name in FILES.items():
        section, _, setting = key.partition(".")
        document.setdefault(section, {})[setting] = str(folder / name)
    families = (len({row["family"] for row in rows[f"collect.{kind}_path"]}) for kind in ("benign", "malicious"))
    document["probe"] = {"refresh_clients": max(families)}  # a family has a reference client at least
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _read(name: str) -> list[Row]:
    return [json.loads(line) for line in (_FOLDER / f"{name}.jsonl").read_bytes().splitlines()]


def _share(rows: Sequence[Row], places: Sequence[int]) -> list[Row]:
    """Those rows whose number, counted from 0, has one of these remainders by 5; all families are multiples of 5 long."""
    return [row for number, row in enumerate(rows) if number % 5 in places]


def _answered(row: Row, response: str) -> Row:
    return {"instruction": row["instruction"], "response": response, "family": row["family"]}
