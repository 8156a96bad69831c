"""What became of a cell: its run's summary in figures and its answers to every prompt, or why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from cluster.comparison.cells import Cell, config_hash, defense_of

Answers = Mapping[str, tuple[np.ndarray, ...]]
"""Measure -> an array (prompts,) of 0 and 1 for each stratum: the benign families for `utility`, one for the others."""

_ON_AN_AXIS = ("schema_version", "seed", "defense_level", "aggregation_rule", "malicious", "attack")
"""Keys of a summary that the columns of the axes repeat."""


class Place(NamedTuple):
    """Where a run stands on every axis but the seed."""

    defense: str
    rule: str
    attack: str | None
    """None where no attacker takes part."""
    malicious: int
    world: int | None
    """None: your own model."""

    @property
    def full_defense(self) -> str:
        """As the axis `defenses` names it: `shadow`, the rule alone where there is no level, `shadow:krum`."""
        if self.rule == "fedavg":
            return self.defense
        return self.rule if self.defense == "none" else f"{self.defense}:{self.rule}"

    @property
    def opponent(self) -> str:
        """The attack and how many attackers make it; with excluded attackers it is any attack."""
        return f"{self.attack or 'any'}, {self.malicious} malicious" if self.malicious else "no attackers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell."""

    cell: Cell
    path: Path
    summary: dict[str, Any] | None = None
    """summary.json; None when the cell failed."""
    error: str | None = None
    """The message of the failure."""
    trace: str | None = None
    """Its whole traceback."""

    @property
    def status(self) -> str:
        """`done`; `stopped` before the last round, by an order or by `evaluation.stop_below`; or `failed`."""
        if self.summary is None:
            return "failed"
        return "done" if self.summary["rounds_done"] == self.summary["rounds"] else "stopped"

    @property
    def seed(self) -> int:
        return self.cell.config.seed

    @property
    def place(self) -> Place:
        config, clients = self.cell.config, self.cell.config.clients
        return Place(
            defense=defense_of(config),
            rule=config.aggregation.rule,
            attack=clients.attack if clients.malicious and not clients.exclude_malicious else None,
            malicious=clients.malicious,
            world=config.world.seed if config.is_embedded else None,
        )

    @property
    def figures(self) -> dict[str, Any]:
        """The summary's plain values, the 95 % interval of the rule score, and `base_...` of the base model; empty on failure."""
        if self.summary is None:
            return {}
        plain = {name: value for name, value in self.summary.items() if not isinstance(value, (dict, list))}
        interval = self.summary.get("intervals", {}).get("rule_score") or {}
        bounds = {f"rule_score_{end}": interval.get(end) for end in ("low", "high")}
        return plain | bounds | {f"base_{name}": value for name, value in self.summary.get("base", {}).items()}

    def columns(self) -> dict[str, str | float | None]:
        """The row of comparison.parquet: the cell, its place and its figures."""
        cell = self.cell
        about = {"cell": cell.name, "group": cell.group, "status": self.status, "error": self.error}
        hashes = {"config_hash": config_hash(cell.config), "protocol_hash": cell.protocol}
        figures = {name: value for name, value in self.figures.items() if name not in _ON_AN_AXIS}
        return about | self.place._asdict() | {"seed": self.seed} | hashes | figures


@cache
def read_answers(folder: Path) -> Answers:
    """The outcome of every prompt in a finished run's last evaluation; empty where the outcomes were not kept."""
    path = folder / "evaluation.parquet"
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    last = max((row["rounds_done"] for row in rows), default=0)
    found: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if row["rounds_done"] == last and row.get("outcomes"):
            digits = np.frombuffer(row["outcomes"].encode("ascii"), dtype=np.uint8) - ord("0")
            found.setdefault(row["measure"], []).append(digits)
    return {measure: tuple(strata) for measure, strata in found.items()}
