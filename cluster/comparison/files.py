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

from cluster.comparison.figures import BASE_FIGURES, FIGURES, Group, Row, Spread, cell_rows, group_rows, spread
from cluster.comparison.running import Outcome
from cluster.tables import SCHEMA_VERSION

_USUAL = {"rule": "fedavg", "attack": "unaligned"}
_TEXTS = ("cell", "group", "status", "error", "defense", "rule", "attack", "config_hash", "adapter_sha256")


def write_tables(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write all four; failed.json only while a cell has failed."""
    rows = cell_rows(outcomes)
    groups = group_rows(rows)
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
    several = has_several_seeds(groups)
    header = [*axes, *(["seeds"] if several else []), *FIGURES.values(), *(["worst seed"] if several else [])]
    lines = []
    for group in groups:
        place = ["-" if group.place[axis] is None else str(group.place[axis]) for axis in axes]
        figures = [figure_text(name, group.figures[name]) for name in FIGURES]
        lines.append([*place, *([_seeds_text(group)] if several else []), *figures, *([_worst_text(group)] if several else [])])
    return header, lines


def brief_texts(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The same for a terminal: the label instead of the axes, and the spread of the rule score only."""
    header = ["run", "seeds", *FIGURES.values(), "worst seed"]
    lines = []
    for group in groups:
        figures = [figure_text(name, group.figures[name], with_ends=name == "rule_score") for name in FIGURES]
        lines.append([group.label, _seeds_text(group), *figures, _worst_text(group)])
    return header, lines


def has_several_seeds(groups: Sequence[Group]) -> bool:
    """Whether seeds are averaged anywhere."""
    return any(len(group.seeds) + len(group.errors) > 1 for group in groups)


def _seeds_text(group: Group) -> str:
    return f"{len(group.seeds)}" + (f" ({len(group.errors)} failed)" if group.errors else "")


def _worst_text(group: Group) -> str:
    return "-" if group.worst_seed is None else str(group.worst_seed)


def _is_shown(axis: str, groups: Sequence[Group]) -> bool:
    values = {group.place[axis] for group in groups}
    return axis in ("defense", "malicious") or len(values) > 1 or (axis in _USUAL and values != {_USUAL[axis]})


def figure_text(figure: str, found: Spread | None, *, with_ends: bool = True) -> str:
    """`0.992`, or `0.992 (0.990-0.995)` where seeds differ; `-` where there is none."""
    if found is None:
        return "-"
    counted = figure in ("wall_s", "rounds_skipped")
    digits = 3 if not counted else int(figure == "rounds_skipped" and not float(found.mean).is_integer())
    mean, low, high = f"{found.mean:.{digits}f}", *(f"{end:.{0 if counted else 3}f}" for end in (found.low, found.high))
    return f"{mean} ({low}-{high})" if with_ends and low != high else mean


def markdown(groups: Sequence[Group], rows: Sequence[Row]) -> str:
    """The table, the base model's figures, and the errors of cells that failed."""
    header, lines = table_texts(groups)
    table = [header, ["-"] * len(header), *lines]
    parts = ["\n".join(f"| {' | '.join(cells)} |" for cells in table), *notes(groups, rows)]
    errors = [
        f"- {group.label}, seed {seed}: {error.splitlines()[0] if error else 'no message'}"
        for group in groups
        for seed, error in group.errors.items()
    ]
    return "\n\n".join([*parts, *(["Failed:\n\n" + "\n".join(errors)] if errors else [])]) + "\n"


def notes(groups: Sequence[Group], rows: Sequence[Row]) -> list[str]:
    """What one has to know to read the table."""
    found = []
    if any(len(group.seeds) > 1 for group in groups):
        found.append("Means over the seeds, lowest to highest in parentheses; the worst seed has the lowest rule score.")
    worlds = dict.fromkeys(row["world"] for row in rows if row["status"] != "failed")
    for world in worlds:
        measured = [row for row in rows if row["world"] == world and row["status"] != "failed"]
        base = {name: spread([row.get(f"base_{name}") for row in measured]) for name in BASE_FIGURES}
        texts = [f"{FIGURES[name]} {value.mean:.3f}" for name, value in base.items() if value]
        if texts:
            found.append(f"Base model{'' if len(worlds) == 1 else f' of world {world}'}: {', '.join(texts)}.")
    return [*found, *_refusals(groups, rows)]


def _refusals(groups: Sequence[Group], rows: Sequence[Row]) -> list[str]:
    """Attackers who never took part make every defense look good, so that is said."""
    counts = {
        group.label: sum(row.get("updates_refused") or 0 for row in rows if row["group"] == group.label) for group in groups
    }
    texts = [f"{label}: {count}" for label, count in counts.items() if count]
    return [f"Updates that were not admitted, for the reasons in rounds.parquet: {'; '.join(texts)}."] if texts else []


def csv_text(groups: Sequence[Group]) -> str:
    """A line per group, figures in full: the mean, and its lowest and highest value over seeds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in FIGURES for end in ("", "_min", "_max")]
    writer.writerow(["defense", "rule", "attack", "malicious", "world", "seeds", "failed", *ends, "worst_seed", "config_hash"])
    for group in groups:
        spreads = [group.figures[name] for name in FIGURES]
        values = [value for s in spreads for value in ((s.mean, s.low, s.high) if s else (None, None, None))]
        counts = [len(group.seeds), len(group.errors)]
        writer.writerow([*group.place.values(), *counts, *values, group.worst_seed, group.config_hash])
    return text.getvalue()
