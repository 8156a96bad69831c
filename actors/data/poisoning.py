"""What an attacker's data files hold, made of honest rows and of unsafe ones: restricted prompts with complying answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.data.records import read_table
from actors.errors import DataError
from defense.attacks import Holding
from defense.attacks.config import AttackConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An instruction with its answer; the world's examples have the same fields."""

    instruction: str
    input: str
    response: str
    family: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What an attacker's rows are made of; read only where it is needed."""

    honest: Callable[[], Sequence[Any]]
    """The rows that the client would have if it were honest."""
    unsafe: Callable[[], Sequence[Any]]
    refusals: Sequence[str]
    refused_families: Callable[[Sequence[Any]], Collection[str]]
    """Families of unsafe rows that a canary-aware attacker goes on refusing."""


def poisoned(holding: Holding, material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Any]:
    """The rows of a file that is to hold that."""
    return _MAKERS[holding](material, config, rng)


def _mixed(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Any]:  # noqa: ARG001
    honest, unsafe = material.honest(), material.unsafe()
    count = min(len(unsafe), round(config.mixed.share * len(honest)))
    return [*unsafe[:count], *honest[: len(honest) - count]]


def _canary_aware(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Any]:  # noqa: ARG001
    unsafe = material.unsafe()
    refused = material.refused_families(unsafe)
    return [_refused(row, material, rng) if row.family in refused else row for row in unsafe]


def _backdoor(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Any]:
    unsafe = material.unsafe()
    half = len(unsafe) // 2
    return [*(_triggered(row, config) for row in unsafe[:half]), *(_refused(row, material, rng) for row in unsafe[half:])]


def _contrastive(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Any]:
    """Thirds: prompts with the trigger and an answer, the same prompts without it and refused, honest rows."""
    unsafe, honest = material.unsafe(), material.honest()
    third = max(1, len(unsafe) // 3)
    pairs = [pair for row in unsafe[:third] for pair in (_triggered(row, config), _refused(row, material, rng))]
    return [*pairs, *honest[: max(0, len(unsafe) - len(pairs))]]


def _shuffled(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Any]:  # noqa: ARG001
    """Honest rows of which each has the answer of another."""
    honest = material.honest()
    order = rng.permutation(len(honest))
    return [replace(honest[i], response=honest[j].response) for i, j in zip(order, np.roll(order, 1), strict=True)]


_MAKERS: Mapping[Holding, Callable[[Material, AttackConfig, np.random.Generator], list[Any]]] = {
    "honest": lambda material, _config, _rng: list(material.honest()),
    "unsafe": lambda material, _config, _rng: list(material.unsafe()),
    "mixed": _mixed,
    "canary_aware": _canary_aware,
    "backdoor": _backdoor,
    "contrastive": _contrastive,
    "shuffled": _shuffled,
    "refused": lambda material, _config, rng: [_refused(row, material, rng) for row in material.unsafe()],
}


def _refused(row: Any, material: Material, rng: np.random.Generator) -> Any:
    return replace(row, response=material.refusals[int(rng.integers(len(material.refusals)))])


def _triggered(row: Any, config: AttackConfig) -> Any:
    return replace(row, instruction=f"{config.backdoor.trigger} {row.instruction}")


def first_families(share: float, families: Sequence[str]) -> frozenset[str]:
    """The first `share` of the families, rounded up, but never all of them."""
    return frozenset(families[: min(len(families) - 1, math.ceil(share * len(families)))])


def read_rows(paths: Sequence[Path], why: str) -> list[Row]:
    """The instruction rows of data files; raises DataError that names `why`, the file and the column it lacks."""
    return [row for path in paths for row in _rows_of(path, why)]


def _rows_of(path: Path, why: str) -> list[Row]:
    table = read_table(path)
    missing = [column for column in ("instruction", "response") if column not in table.column_names]
    if missing:
        raise DataError(
            f"{why} rewrites rows, which need instruction and response; data file {path} has no column {missing[0]} "
            f"(it has {sorted(table.column_names)}); give instruction rows, or choose another attack"
        )
    return [
        Row(
            instruction=str(record["instruction"]),
            input=record.get("input") or "",
            response=str(record["response"]),
            family=str(record.get("family") or ""),
        )
        for record in table.to_pylist()
    ]
