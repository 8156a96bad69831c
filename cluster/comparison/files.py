"""What a comparison leaves beside its run directories: comparison.parquet, comparison.md, comparison.csv, failed.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.comparison.figures import (
    BASE_FIGURES,
    FIGURES,
    Group,
    Row,
    Spread,
    cell_answers,
    cell_rows,
    group_rows,
    spread,
    worst_attacks,
)
from cluster.comparison.running import Outcome
from cluster.state.tables import SCHEMA_VERSION

_USUAL = {"rule": "fedavg", "attack": "unaligned"}
_TEXTS = ("cell", "group", "status", "error", "defense", "rule", "attack", "config_hash", "protocol_hash", "adapter_sha256")
_SOMETIMES = ("attack_success", "rule_vs_clean", "utility_vs_clean")
"""Figures that have no column for people where no group has them."""
_ON_PAPER = ("over_refusal", "tpr", "fpr", "server_s")
"""Figures for which a terminal has no room beside the label; the Markdown and the CSV table have them."""
_DIGITS = {"wall_s": 0, "server_s": 1, "utility_vs_clean": 2}
_UNSEEN = {
    "updates_refused": "Updates that were not admitted, for the reasons in rounds.parquet",
    "probe_refreshes_rejected": "Refreshes of the probe that failed, for the reasons in probe.parquet; an older one judged",
}
"""What no column of the table shows: attackers who never took part make every defense look good, and so on."""
_SERVER_COST = (
    "Server seconds: the probe's scoring, waits for its refresh (reference clients and fit), the canary, the validation, the "
    "aggregator and the realignment, over the whole run; evaluation and the start of actors are not among them."
)


def write_tables(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write all four; failed.json only while a cell has failed."""
    rows = cell_rows(outcomes)
    groups = group_rows(rows, cell_answers(outcomes))
    pq.write_table(cells_table(rows), folder / "comparison.parquet")
    (folder / "comparison.md").write_text(markdown(groups, rows))
    (folder / "comparison.csv").write_text(csv_text(groups))
    failed = {
        o.cell.name: {"cell": o.cell.label, "error": o.error, "traceback": o.trace} for o in outcomes if o.error is not None
    }
    (folder / "failed.json").unlink(missing_ok=True)
    if failed:
        (folder / "failed.json").write_text(json.dumps(failed, indent=2) + "\n")


def cells_table(rows: Sequence[Row]) -> pa.Table:
    """A row per cell; a column that only some have is null elsewhere."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    return pa.table(columns, metadata={"schema_version": str(SCHEMA_VERSION)})


def _column(name: str, values: Sequence[Any]) -> pa.Array:
    if name in _TEXTS:
        return pa.array(values, pa.string())
    column = pa.array(values)
    return column.cast(pa.float64()) if pa.types.is_null(column.type) else column


def table_texts(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Header and a line per group, for people. Axes on which nothing varies and which are at their usual value are left out."""
    axes = [axis for axis in ("defense", "rule", "attack", "malicious", "world") if _is_shown(axis, groups)]
    several, shown = has_several_seeds(groups), _shown_figures(groups)
    names = [FIGURES[name] for name in shown]
    header = [*axes, *(["seeds"] if several else []), *names, *(["worst seed"] if several else [])]
    lines = []
    for group in groups:
        place = ["-" if group.place[axis] is None else str(group.place[axis]) for axis in axes]
        figures = [figure_text(name, group.figures[name]) for name in shown]
        lines.append([*place, *([_seeds_text(group)] if several else []), *figures, *([_worst_text(group)] if several else [])])
    return header, lines


def brief_texts(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The same for a terminal: the label instead of the axes, fewer figures, and the interval of the rule score only."""
    shown = [name for name in _shown_figures(groups) if name not in _ON_PAPER]
    header = ["run", "seeds", *(FIGURES[name] for name in shown), "worst seed"]
    lines = []
    for group in groups:
        figures = [figure_text(name, group.figures[name], with_ends=name == "rule_score") for name in shown]
        lines.append([group.label, _seeds_text(group), *figures, _worst_text(group)])
    return header, lines


def _shown_figures(groups: Sequence[Group]) -> list[str]:
    return [name for name in FIGURES if name not in _SOMETIMES or any(group.figures[name] for group in groups)]


def has_several_seeds(groups: Sequence[Group]) -> bool:
    """Whether seeds are averaged anywhere."""
    return any(len(group.seeds) + len(group.errors) > 1 for group in groups)


def _seeds_text(group: Group) -> str:
    return f"{len(group.seeds)}" + (f" ({len(group.errors)} failed)" if group.errors else "")


def _worst_text(group: Group) -> str:
    """The seed with its rule score."""
    return "-" if group.worst_seed is None else f"{group.worst_seed}: {group.figures['rule_score'].low:.3f}"


def _is_shown(axis: str, groups: Sequence[Group]) -> bool:
    values = {group.place[axis] for group in groups} - ({None} if axis == "attack" else set())
    return axis in ("defense", "malicious") or len(values) > 1 or (axis in _USUAL and not values <= {_USUAL[axis]})


def figure_text(figure: str, found: Spread | None, *, with_ends: bool = True) -> str:
    """`0.992 [0.985, 0.996]` with an interval, `0.992 (0.990-0.995)` without one where seeds differ; `-` without a value."""
    if found is None:
        return "-"
    if figure == "rounds_skipped":
        mean, low, high = f"{found.mean:.{0 if float(found.mean).is_integer() else 1}f}", f"{found.low:.0f}", f"{found.high:.0f}"
    else:
        digits, sign = _DIGITS.get(figure, 3), "+" if figure == "utility_vs_clean" else ""
        mean, low, high = (f"{value:{sign}.{digits}f}" for value in (found.mean, *(found.interval or (found.low, found.high))))
    if found.interval is not None:
        return f"{mean} [{low}, {high}]" if with_ends else mean
    return f"{mean} ({low}-{high})" if with_ends and low != high else mean


def markdown(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    """The protocol, the table, what one has to know to read it, and the errors of cells that failed."""
    header, lines = table_texts(groups)
    table = [header, ["-"] * len(header), *lines]
    parts = [_protocol(rows), "\n".join(f"| {' | '.join(cells)} |" for cells in table), *notes(groups, rows), *_cost(groups)]
    errors = [
        f"- {group.label}, seed {seed}: {error.splitlines()[0] if error else 'no message'}"
        for group in groups
        for seed, error in group.errors.items()
    ]
    return "\n\n".join([*parts, *(["Failed:\n\n" + "\n".join(errors)] if errors else [])]) + "\n"


def _protocol(rows: Sequence[Row]) -> str:
    hashes = ", ".join(dict.fromkeys(row["protocol_hash"] for row in rows))
    return f"Protocol {hashes}: the hash of all settings but the axes; comparisons that share it differ in these columns alone."


def notes(groups: Sequence[Group], rows: Sequence[Row]) -> list[str]:
    """What one has to know to read the table."""
    return [
        *_averages(groups),
        *_clean(groups),
        *_worst(groups),
        *_stopped(rows),
        *_base_models(rows),
        *(note for figure, what in _UNSEEN.items() for note in _counted(groups, rows, figure, what)),
    ]


def _averages(groups: Sequence[Group]) -> list[str]:
    several, found = any(len(group.seeds) > 1 for group in groups), []
    if any(figure and figure.interval for group in groups for figure in group.figures.values()):
        found.append(f"In brackets: 95 % intervals over {'seeds and ' if several else ''}prompts.")
    if several:
        found.append("Means over the seeds, lowest to highest in parentheses; the worst seed has the lowest rule score.")
    return [" ".join(found)] if found else []


def _clean(groups: Sequence[Group]) -> list[str]:
    if not any(group.figures["utility_vs_clean"] or group.figures["rule_vs_clean"] for group in groups):
        return []
    return [
        "Clean is plain averaging without attackers, of the same world and seeds: the rule score's ratio to its own, and the "
        "utility's difference in points of 100, paired by seed and prompt."
    ]


def _worst(groups: Sequence[Group]) -> list[str]:
    """The attack that each defense stands worst, where it met several."""
    found = []
    for figure in ("rule_score", "utility"):
        texts = [f"{defense}: {value:.3f} under {attack}" for defense, (attack, value) in worst_attacks(groups, figure).items()]
        found += [f"Worst attack by mean {FIGURES[figure]}: {'; '.join(texts)}."] if texts else []
    return found


def _stopped(rows: Sequence[Row]) -> list[str]:
    """Runs with fewer rounds than the others, by name."""
    texts = [f"{row['cell']} after {row['rounds_done']} of {row['rounds']} rounds" for row in rows if row["status"] == "stopped"]
    return [f"Stopped before the last round: {'; '.join(texts)}."] if texts else []


def _cost(groups: Sequence[Group]) -> list[str]:
    return [_SERVER_COST] if any(group.figures["server_s"] for group in groups) else []


def _base_models(rows: Sequence[Row]) -> list[str]:
    found = []
    worlds = dict.fromkeys(row["world"] for row in rows if row["status"] != "failed")
    for world in worlds:
        measured = [row for row in rows if row["world"] == world and row["status"] != "failed"]
        base = {name: spread([row.get(f"base_{name}") for row in measured]) for name in BASE_FIGURES}
        texts = [f"{FIGURES[name]} {value.mean:.3f}" for name, value in base.items() if value]
        if texts:
            found.append(f"Base model{'' if len(worlds) == 1 else f' of world {world}'}: {', '.join(texts)}.")
    return found


def _counted(groups: Sequence[Group], rows: Sequence[Row], figure: str, what: str) -> list[str]:
    """`what`, with the sum of a figure of each group that has any."""
    counts = {group.label: sum(row.get(figure) or 0 for row in rows if row["group"] == group.label) for group in groups}
    texts = [f"{label}: {count}" for label, count in counts.items() if count]
    return [f"{what}: {'; '.join(texts)}."] if texts else []


def csv_text(groups: Sequence[Group]) -> str:
    """A line per group, figures in full: the mean, its lowest and highest value over seeds, and its 95 % interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in FIGURES for end in ("", "_min", "_max", "_ci_low", "_ci_high")]
    writer.writerow(["defense", "rule", "attack", "malicious", "world", "seeds", "failed", *ends, "worst_seed", "config_hash"])
    for group in groups:
        values = [value for name in FIGURES for value in _full(group.figures[name])]
        counts = [len(group.seeds), len(group.errors)]
        writer.writerow([*group.place.values(), *counts, *values, group.worst_seed, group.config_hash])
    return text.getvalue()


def _full(found: Spread | None) -> tuple[float | None, ...]:
    return (found.mean, found.low, found.high, *(found.interval or (None, None))) if found else (None,) * 5
