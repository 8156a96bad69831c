"""A comparison in figures: a row per cell, and a group of cells for every place of the matrix, averaged over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cluster.comparison.running import Outcome
from cluster.comparison.stored import config_hash
from cluster.config import RunConfig

FIGURES = {
    "rule_score": "rule score",
    "compliance": "compliance",
    "utility": "utility",
    "mean_weight_benign": "w benign",
    "mean_weight_malicious": "w malicious",
    "tpr": "TPR",
    "fpr": "FPR",
    "rounds_skipped": "skipped",
    "wall_s": "seconds",
}
"""Figure of a summary -> its name in the tables, in the order of the paper."""
BASE_FIGURES = ("rule_score", "compliance", "utility")
_ON_AN_AXIS = ("schema_version", "seed", "defense_level", "aggregation_rule", "malicious")
"""What a summary says and the columns of the axes say too."""

Row = Mapping[str, Any]
"""A cell: name of a column -> value."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the seeds of a group."""

    mean: float
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cells that only the seed tells apart."""

    label: str
    place: Mapping[str, Any]
    """defense, rule, attack, malicious, world."""
    seeds: tuple[int, ...]
    """Those that have a result."""
    figures: Mapping[str, Spread | None]
    """The keys of FIGURES; None: no cell has that figure."""
    worst_seed: int | None
    """The lowest rule score; the first of several."""
    errors: Mapping[int, str]
    """Seed -> why that cell failed."""
    config_hash: str


def place_of(config: RunConfig) -> dict[str, Any]:
    """Where a run stands on every axis but the seed; world is None without an embedded one."""
    return {
        "defense": config.defense.level,
        "rule": config.aggregation.rule,
        "attack": config.clients.attack,
        "malicious": config.clients.malicious,
        "world": config.world.seed if config.is_embedded else None,
    }


def cell_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row per cell: status, place, and the plain figures of its summary with the 95 % interval of the rule score."""
    return [_cell_row(outcome) for outcome in outcomes]


def _cell_row(outcome: Outcome) -> Row:
    cell, summary = outcome.cell, outcome.summary or {}
    about = {"cell": cell.name, "group": cell.group, "status": _status(outcome), "error": outcome.error}
    figures = {name: value for name, value in summary.items() if not isinstance(value, (dict, list)) and name not in _ON_AN_AXIS}
    interval = summary.get("intervals", {}).get("rule_score") or {}
    bounds = {f"rule_score_{end}": interval.get(end) for end in ("low", "high")} if summary else {}
    base = {f"base_{name}": value for name, value in summary.get("base", {}).items()}
    place = {**place_of(cell.config), "seed": cell.config.seed, "config_hash": config_hash(cell.config)}
    return {**about, **place, **figures, **bounds, **base}


def _status(outcome: Outcome) -> str:
    """`stopped` is a run that was told to end before its last round; its figures are those it had then."""
    if outcome.summary is None:
        return "failed"
    return "done" if outcome.summary["rounds_done"] == outcome.summary["rounds"] else "stopped"


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """The cells of each group together, in order of their first cell."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return [_group(label, members) for label, members in groups.items()]


def _group(label: str, rows: Sequence[Row]) -> Group:
    good = [row for row in rows if row["status"] != "failed"]
    scored = [row for row in good if row["rule_score"] is not None]
    return Group(
        label=label,
        place={axis: rows[0][axis] for axis in ("defense", "rule", "attack", "malicious", "world")},
        seeds=tuple(row["seed"] for row in good),
        figures={name: spread([row[name] for row in good]) for name in FIGURES},
        worst_seed=min(scored, key=lambda row: row["rule_score"])["seed"] if scored else None,
        errors={row["seed"]: row["error"] for row in rows if row["status"] == "failed"},
        config_hash=rows[0]["config_hash"],
    )


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean, lowest and highest of the values that are known; None without any."""
    known = [value for value in values if value is not None]
    return Spread(fmean(known), min(known), max(known), len(known)) if known else None


def defense_name(place: Mapping[str, Any]) -> str:
    """As the axis `defenses` names it: `shadow`, the rule alone where there is no level, `shadow:krum`."""
    if place["rule"] == "fedavg":
        return place["defense"]
    return place["rule"] if place["defense"] == "none" else f"{place['defense']}:{place['rule']}"


def attack_name(place: Mapping[str, Any]) -> str:
    """What the defense stands against."""
    return f"{place['attack']}, {place['malicious']} malicious"


def heat_map(groups: Sequence[Group], figure: str) -> dict[str, dict[str, float | None]]:
    """Defense -> attack -> the mean of a figure over seeds, and over worlds where there are several; None where cells failed."""
    values: dict[str, dict[str, list[float | None]]] = {}
    for group in groups:
        found = group.figures[figure]
        cell = values.setdefault(defense_name(group.place), {}).setdefault(attack_name(group.place), [])
        cell.append(found.mean if found else None)
    means = {row: {column: spread(cell) for column, cell in cells.items()} for row, cells in values.items()}
    return {row: {column: mean and mean.mean for column, mean in cells.items()} for row, cells in means.items()}
