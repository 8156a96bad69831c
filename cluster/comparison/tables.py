"""The texts that a comparison leaves beside its run directories: comparison.parquet, .md and .csv, failed.json, and the notes.

The notes below a table say what a reader has to know, and what no column shows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.comparison.groups import FIGURES, Group, Spread, grouped, spread
from cluster.comparison.outcome import Outcome, Place
from cluster.state.tables import SCHEMA_VERSION

_USUAL = {"rule": "fedavg", "attack": "unaligned"}
_TEXTS = ("error", "attack", "adapter_sha256", "utility_measure")
"""Columns of texts that no cell may have; other empty columns hold numbers."""
_SOMETIMES = ("safety_kept", "attack_success", "over_refusal_sounds_unsafe", "rule_vs_clean", "utility_vs_clean")
"""Figures that have no column for people where no group has them."""
_ON_PAPER = ("over_refusal", "over_refusal_sounds_unsafe", "tpr", "fpr", "server_s")
"""Figures for which a terminal has no room; the Markdown and the CSV table have them."""
_DIGITS = {"wall_s": 0, "server_s": 1, "utility_vs_clean": 2}
_BASE_FIGURES = ("rule_score", "compliance", "utility")
_UNSEEN = {
    "updates_refused": "Updates that were not admitted, for the reasons in rounds.parquet",
    "probe_refreshes_rejected": "Refreshes of the probe that failed, for the reasons in probe.parquet; an older one judged",
}
"""Figures without a column, which change how to read the table: attackers that never took part make every defense look good."""
_CLEAN = (
    "Clean is plain averaging without attackers, of the same world and seeds: the rule score's ratio to its own, and the "
    "utility's difference in points of 100, paired by seed and prompt."
)
_SERVER_COST = (
    "Server seconds: the probe's scoring, waits for its refresh (reference clients and fit), the canary, the validation, "
    "preservation, the aggregator and the realignment, over the whole run; evaluation and the start of actors are not among them."
)


def write_tables(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write all four files; failed.json only while a cell has failed."""
    groups = grouped(outcomes)
    pq.write_table(_cells_table(outcomes), folder / "comparison.parquet")
    (folder / "comparison.md").write_text(markdown(groups, outcomes))
    (folder / "comparison.csv").write_text(csv_text(groups))
    failed = {
        o.cell.name: {"cell": o.cell.label, "error": o.error, "traceback": o.trace} for o in outcomes if o.error is not None
    }
    (folder / "failed.json").unlink(missing_ok=True)
    if failed:
        (folder / "failed.json").write_text(json.dumps(failed, indent=2) + "\n")


def _cells_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """A row per cell; a column that only some cells have is null elsewhere."""
    rows = [outcome.columns() for outcome in outcomes]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        column = pa.array([row.get(name) for row in rows])
        kind = pa.string() if name in _TEXTS else pa.float64()
        columns[name] = column.cast(kind) if pa.types.is_null(column.type) else column
    return pa.table(columns, metadata={"schema_version": str(SCHEMA_VERSION)})


def markdown(groups: Sequence[Group], outcomes: Sequence[Outcome]) -> str:
    """The protocol, the table, the notes, and the errors of cells that failed. Axes without a choice have no column."""
    hashes = ", ".join(dict.fromkeys(outcome.cell.protocol for outcome in outcomes))
    axes = [axis for axis in Place._fields if _is_shown(axis, groups)]
    places = [["-" if (value := getattr(group.place, axis)) is None else str(value) for axis in axes] for group in groups]
    header, lines = _table_texts(groups, axes, places, figures=FIGURES, with_ends=FIGURES)
    errors = [
        f"- {group.label}, seed {seed}: {error.splitlines()[0] if error else 'no message'}"
        for group in groups
        for seed, error in group.errors.items()
    ]
    paragraphs = [
        f"Protocol {hashes}: the hash of all settings but the axes; comparisons that share it differ in these columns alone.",
        "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["-"] * len(header), *lines]),
        *notes(groups, outcomes),
    ]
    if any(group.figures["server_s"] for group in groups):
        paragraphs.append(_SERVER_COST)
    if errors:
        paragraphs += ["Failed:", "\n".join(errors)]
    return "\n\n".join(paragraphs) + "\n"


def brief_texts(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The same for a terminal: the label instead of the axes, fewer figures, and the interval of the rule score only."""
    figures = [name for name in FIGURES if name not in _ON_PAPER]
    return _table_texts(groups, ["run"], [[group.label] for group in groups], figures, with_ends=("rule_score",))


def _table_texts(
    groups: Sequence[Group],
    axes: Sequence[str],
    places: Sequence[Sequence[str]],
    figures: Iterable[str],
    with_ends: Collection[str],
) -> tuple[list[str], list[list[str]]]:
    """Header and a line per group, for people."""
    several = has_several_seeds(groups)
    shown = [name for name in figures if name not in _SOMETIMES or any(group.figures[name] for group in groups)]
    header, lines = [*axes, *["seeds"] * several, *(FIGURES[name] for name in shown), *["worst seed"] * several], []
    for group, place in zip(groups, places, strict=True):
        seeds = f"{len(group.seeds)}" + (f" ({len(group.errors)} failed)" if group.errors else "")
        score = group.figures["rule_score"]
        worst = "-" if group.worst_seed is None or score is None else f"{group.worst_seed}: {score.low:.3f}"
        values = [figure_text(name, group.figures[name], with_ends=name in with_ends) for name in shown]
        lines.append([*place, *[seeds] * several, *values, *[worst] * several])
    return header, lines


def has_several_seeds(groups: Sequence[Group]) -> bool:
    """Whether seeds are averaged anywhere."""
    return any(len(group.seeds) + len(group.errors) > 1 for group in groups)


def _is_shown(axis: str, groups: Sequence[Group]) -> bool:
    values = {getattr(group.place, axis) for group in groups} - ({None} if axis == "attack" else set())
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


def csv_text(groups: Sequence[Group]) -> str:
    """A line per group, figures in full: the mean, its lowest and highest value over seeds, and its 95 % interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name}{end}" for name in FIGURES for end in ("", "_min", "_max", "_ci_low", "_ci_high")]
    writer.writerow([*Place._fields, "seeds", "failed", *ends, "worst_seed", "config_hash"])
    for group in groups:
        values = [value for name in FIGURES for value in _full(group.figures[name])]
        writer.writerow([*group.place, len(group.seeds), len(group.errors), *values, group.worst_seed, group.config_hash])
    return text.getvalue()


def _full(found: Spread | None) -> tuple[float | None, ...]:
    return (found.mean, found.low, found.high, *(found.interval or (None, None))) if found else (None,) * 5


def notes(groups: Sequence[Group], outcomes: Sequence[Outcome]) -> list[str]:
    """What a reader has to know, a paragraph each."""
    several, averages = any(len(group.seeds) > 1 for group in groups), []
    if any(figure and figure.interval for group in groups for figure in group.figures.values()):
        averages.append(f"In brackets: 95 % intervals over {'seeds and ' if several else ''}prompts.")
    if several:
        averages.append("Means over the seeds, lowest to highest in parentheses; the worst seed has the lowest rule score.")
    is_compared = any(group.figures["utility_vs_clean"] or group.figures["rule_vs_clean"] for group in groups)
    stopped = [outcome for outcome in outcomes if outcome.status == "stopped"]
    after = [f"{o.cell.name} after {o.figures['rounds_done']} of {o.figures['rounds']} rounds" for o in stopped]
    found = [
        " ".join(averages),
        _CLEAN if is_compared else "",
        *(_worst_attacks(groups, figure) for figure in ("rule_score", "utility")),
        _listed("Stopped before the last round", after),
        *_base_models(outcomes),
        *(_counted(outcomes, figure, what) for figure, what in _UNSEEN.items()),
    ]
    return [text for text in found if text]


def _listed(what: str, texts: Sequence[str], between: str = "; ") -> str:
    return f"{what}: {between.join(texts)}." if texts else ""


def _worst_attacks(groups: Sequence[Group], figure: str) -> str:
    """The attack under which the mean of a figure is lowest, for each defense that met several.

    The same attack with two numbers of attackers, or in two worlds, counts as two.
    """
    met: dict[str, dict[str, float]] = {}
    has_worlds = len({group.place.world for group in groups}) > 1
    for group in groups:
        found, place = group.figures[figure], group.place
        if found and place.attack is not None:
            where = f", world {place.world}" if has_worlds else ""
            met.setdefault(place.full_defense, {})[place.opponent + where] = found.mean
    worst = {defense: min(means, key=lambda attack: means[attack]) for defense, means in met.items() if len(means) > 1}
    texts = [f"{defense}: {met[defense][attack]:.3f} under {attack}" for defense, attack in worst.items()]
    return _listed(f"Worst attack by mean {FIGURES[figure]}", texts)


def _base_models(outcomes: Sequence[Outcome]) -> Iterator[str]:
    worlds: dict[int | None, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.summary is not None:
            worlds.setdefault(outcome.place.world, []).append(outcome)
    for world, measured in worlds.items():
        base = {name: spread(outcome.figures.get(f"base_{name}") for outcome in measured) for name in _BASE_FIGURES}
        texts = [f"{FIGURES[name]} {value.mean:.3f}" for name, value in base.items() if value]
        yield _listed(f"Base model{'' if len(worlds) == 1 else f' of world {world}'}", texts, ", ")


def _counted(outcomes: Sequence[Outcome], figure: str, what: str) -> str:
    """`what`, with the sum of a figure for each group in which it is not 0."""
    counts: dict[str, float] = {}
    for outcome in outcomes:
        counts[outcome.cell.group] = counts.get(outcome.cell.group, 0) + (outcome.figures.get(figure) or 0)
    return _listed(what, [f"{label}: {count:g}" for label, count in counts.items() if count])
