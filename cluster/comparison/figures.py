"""A comparison in figures: a row per cell, and a group of cells for every place of the matrix, averaged over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from cluster.comparison.answers import Answers, read_answers
from cluster.comparison.axes import defense_of
from cluster.comparison.fingerprints import config_hash
from cluster.comparison.intervals import Strata, difference_interval, share_interval
from cluster.comparison.running import Outcome
from cluster.config.schema import RunConfig

FIGURES = {
    "rule_score": "rule score",
    "rule_vs_clean": "rule vs clean",
    "compliance": "compliance",
    "attack_success": "attack success",
    "utility": "utility",
    "utility_vs_clean": "utility vs clean",
    "over_refusal": "over-refusal",
    "mean_weight_benign": "w benign",
    "mean_weight_malicious": "w malicious",
    "tpr": "TPR",
    "fpr": "FPR",
    "rounds_skipped": "skipped",
    "server_s": "server s",
    "wall_s": "seconds",
}
"""Figure -> its name in the tables, those of the paper in its order. Two compare with the clean group: plain averaging without
attackers, of the same world and seeds. `rule_vs_clean` is a ratio, `utility_vs_clean` a difference in points of 100; the others
are a summary's own."""
BASE_FIGURES = ("rule_score", "compliance", "utility")
_ON_AN_AXIS = ("schema_version", "seed", "defense_level", "aggregation_rule", "malicious", "attack")
"""What a summary says and the columns of the axes say too."""

Row = Mapping[str, Any]
"""A cell: name of a column -> value."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the seeds of a group."""

    mean: float
    low: float
    """Of the lowest seed."""
    high: float
    num_seeds: int
    interval: tuple[float, float] | None = None
    """95 % interval of the mean over seeds and prompts; None where prompts do not make the figure, or were not kept."""


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
    """Where a run stands on every axis but the seed. None: the attack where no attacker takes part, an own model's world."""
    return {
        "defense": defense_of(config),
        "rule": config.aggregation.rule,
        "attack": config.clients.attack if config.clients.malicious and not config.clients.exclude_malicious else None,
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
    hashes = {"config_hash": config_hash(cell.config), "protocol_hash": cell.protocol}
    place = {**place_of(cell.config), "seed": cell.config.seed, **hashes}
    return {**about, **place, **figures, **bounds, **base}


def _status(outcome: Outcome) -> str:
    """`stopped` is a run that ended before its last round, told to or for `evaluation.stop_below`, with its figures of then."""
    if outcome.summary is None:
        return "failed"
    return "done" if outcome.summary["rounds_done"] == outcome.summary["rounds"] else "stopped"


def cell_answers(outcomes: Sequence[Outcome]) -> dict[str, Answers]:
    """Cell -> what its final adapter made of every prompt, for those that did not fail."""
    return {outcome.cell.name: read_answers(outcome.path) for outcome in outcomes if outcome.summary is not None}


def group_rows(rows: Sequence[Row], answers: Mapping[str, Answers] | None = None) -> list[Group]:
    """The cells of each group together, in order of their first cell.

    Args:
        rows: Of `cell_rows`.
        answers: Of `cell_answers`; without them figures have no intervals.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    clean = {row["world"]: members for members in groups.values() for row in members if _is_clean(row)}
    return [_group(label, members, clean.get(members[0]["world"], []), answers or {}) for label, members in groups.items()]


def _is_clean(row: Row) -> bool:
    return (row["defense"], row["rule"], row["malicious"]) == ("none", "fedavg", 0)


def _group(label: str, rows: Sequence[Row], clean: Sequence[Row], answers: Mapping[str, Answers]) -> Group:
    good, reference = _good(rows), _good(clean)
    scored = [row for row in good if row["rule_score"] is not None]
    own = {name: spread([row.get(name) for row in good]) for name in FIGURES}
    measured = {name: found and replace(found, interval=_interval(name, good, answers)) for name, found in own.items()}
    return Group(
        label=label,
        place={axis: rows[0][axis] for axis in ("defense", "rule", "attack", "malicious", "world")},
        seeds=tuple(row["seed"] for row in good),
        figures=measured | _against(good, reference, answers),
        worst_seed=min(scored, key=lambda row: row["rule_score"])["seed"] if scored else None,
        errors={row["seed"]: row["error"] for row in rows if row["status"] == "failed"},
        config_hash=rows[0]["config_hash"],
    )


def _good(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] != "failed"]


def _interval(figure: str, rows: Sequence[Row], answers: Mapping[str, Answers]) -> tuple[float, float] | None:
    known = [answers.get(row["cell"], {}) for row in rows if row.get(figure) is not None]
    return share_interval(_stacked(figure, known)) if all(figure in cell for cell in known) and known else None


def _stacked(figure: str, cells: Sequence[Answers]) -> Strata:
    """The answers of several seeds to the same prompts: an array (seeds, prompts) for each stratum."""
    return [np.stack(parts) for parts in zip(*(cell[figure] for cell in cells), strict=True)]


def _against(rows: Sequence[Row], clean: Sequence[Row], answers: Mapping[str, Answers]) -> dict[str, Spread | None]:
    """Comparison with the clean group, over the seeds that both have."""
    safe = list(_pairs("rule_score", rows, clean))
    ratio = spread([row["rule_score"] / other["rule_score"] for row, other in safe if other["rule_score"]])
    useful = list(_pairs("utility", rows, clean))
    points = spread([100 * (row["utility"] - other["utility"]) for row, other in useful])
    kept = [(answers.get(row["cell"], {}), answers.get(other["cell"], {})) for row, other in useful]
    if points and all("utility" in cell for pair in kept for cell in pair):
        own, others = (_stacked("utility", cells) for cells in zip(*kept, strict=True))
        low, high = difference_interval(own, others)
        points = replace(points, interval=(100 * low, 100 * high))
    return {"rule_vs_clean": ratio, "utility_vs_clean": points}


def _pairs(figure: str, rows: Sequence[Row], clean: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """The cells of a group, each with the clean one of its seed, where both have the figure."""
    by_seed = {row["seed"]: row for row in clean if row.get(figure) is not None}
    return ((row, by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed and row.get(figure) is not None)


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
    """What the defense stands against; with the attackers left out it is every attack."""
    if not place["malicious"]:
        return "no attackers"
    return f"{place['attack'] or 'any'}, {place['malicious']} malicious"


def worst_attacks(groups: Sequence[Group], figure: str) -> dict[str, tuple[str, float]]:
    """Defense -> the attack under which the mean of a figure is lowest, and that mean; of defenses that met several.

    The same attack at two shares of attackers or in two worlds is two.
    """
    met: dict[str, dict[str, float]] = {}
    worlds = {group.place["world"] for group in groups}
    for group in groups:
        found, place = group.figures[figure], group.place
        if found and place["attack"] is not None:
            where = f", world {place['world']}" if len(worlds) > 1 else ""
            met.setdefault(defense_name(place), {})[attack_name(place) + where] = found.mean
    return {defense: min(means.items(), key=lambda item: item[1]) for defense, means in met.items() if len(means) > 1}


def heat_map(groups: Sequence[Group], figure: str) -> dict[str, dict[str, float | None]]:
    """Defense -> attack -> the mean of a figure over seeds, and over worlds where there are several; None where cells failed."""
    values: dict[str, dict[str, list[float | None]]] = {}
    for group in groups:
        found = group.figures[figure]
        cell = values.setdefault(defense_name(group.place), {}).setdefault(attack_name(group.place), [])
        cell.append(found.mean if found else None)
    means = {row: {column: spread(cell) for column, cell in cells.items()} for row, cells in values.items()}
    return {row: {column: mean and mean.mean for column, mean in cells.items()} for row, cells in means.items()}
