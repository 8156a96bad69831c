"""Several runs side by side: their figures, against plain averaging, and the paper's table of defenses by malicious share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cluster.report.chart import Chart, Series, Table, columns, done_axis, share_axis
from cluster.report.grid import Grid, figure
from cluster.report.reading import Row, Run

_LINES = ("blue", "red", "green", "yellow", "purple", "sky", "grey")
_KINDS = ("solid", "dashed", "dotted")
_SYMBOLS = ("circle", "triangle", "diamond", "rect")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the page shows above the runs."""

    tables: Sequence[Grid]
    chart: Chart | None


def compare(runs: Sequence[Run]) -> Comparison:
    """Of two runs or more, with names that differ."""
    grids = [_figures(runs)]
    grids += [_by_share(runs, measure, title) for measure, title in (("rule_score", "Safety"), ("utility", "Utility"))]
    return Comparison([grid for grid in grids if grid.lines], _chart(runs))


def last(run: Run, measure: str) -> float | None:
    """The newest value; None where it was not measured."""
    rows = run.measured(measure)
    return rows[-1]["value"] if rows else None


def _figures(runs: Sequence[Run]) -> Grid:
    """A line per run; differences are to plain averaging with as many attackers."""
    header = ["run", "rounds", "safety (95 % interval)", "compliance", "utility", "weight benign", "weight malicious", "seconds"]
    plain = any(_plain(run, runs) for run in runs)
    header += ["safety to FedAvg", "utility to FedAvg"] if plain else []
    return Grid(header, [_line(run, runs, plain) for run in runs], "The newest adapter of each run")


def _line(run: Run, runs: Sequence[Run], plain: bool) -> list[str]:
    safety, summary = run.measured("rule_score"), run.summary or {}
    interval = f" ({safety[-1]['low']:.2f} to {safety[-1]['high']:.2f})" if safety else ""
    known = run.attackers is not None
    cells = [
        run.name,
        f"{run.rounds_done} of {run.config.rounds}",
        figure(last(run, "rule_score")) + interval,
        figure(last(run, "compliance")),
        figure(last(run, "utility")),
        figure(summary.get("mean_weight_benign") if known else None),
        figure(summary.get("mean_weight_malicious") if known else None),
        figure(summary.get("wall_s"), 0),
    ]
    base = _plain(run, runs)
    return cells + [_difference(run, base, measure) for measure in ("rule_score", "utility")] if plain else cells


def _plain(run: Run, runs: Sequence[Run]) -> Run | None:
    """Plain averaging among the runs with the same attackers and seed; None where there is none."""
    same = [other for other in runs if other is not run and _is_plain(other) and _opponent(other) == _opponent(run)]
    return same[0] if same and not _is_plain(run) else None


def _is_plain(run: Run) -> bool:
    return run.config.defense.level == "none" and run.config.aggregation.rule == "fedavg"


def _opponent(run: Run) -> tuple[object, ...]:
    clients = run.config.clients
    return clients.count, clients.malicious, clients.attack if clients.malicious else None, run.config.seed, run.config.model.path


def _difference(run: Run, base: Run | None, measure: str) -> str:
    value, other = last(run, measure), last(base, measure) if base else None
    return figure(None if value is None or other is None else value - other, sign="+")


def defense_of(run: Run) -> str:
    """As `compare` names it: the level, the rule alone where there is no level, or both."""
    level, rule = run.config.defense.level, run.config.aggregation.rule
    if rule == "fedavg":
        return level
    return rule if level == "none" else f"{level}:{rule}"


def _by_share(runs: Sequence[Run], measure: str, title: str) -> Grid:
    """Defenses by the share of malicious clients, each the mean of its runs; empty where the share is not known of all."""
    known = [run for run in runs if run.attackers is not None and last(run, measure) is not None]
    if len(known) < len(runs):
        return Grid([], [])
    defenses, opponents = list(dict.fromkeys(map(defense_of, runs))), sorted(set(map(_opponents, runs)))
    lines = [[defense, *(_mean(runs, measure, defense, opponent) for opponent in opponents)] for defense in defenses]
    is_one = len({attack for _, attack in opponents if attack}) < 2
    names = [f"{share:.0%} malicious" + (f", {attack}" if attack and not is_one else "") for share, attack in opponents]
    return Grid(["defense", *names], lines, f"{title} by defense and malicious share")


def _opponents(run: Run) -> tuple[float, str]:
    """The share of attackers, and their attack."""
    clients = run.config.clients
    return clients.malicious / clients.count, clients.attack if clients.malicious else ""


def _mean(runs: Sequence[Run], measure: str, defense: str, opponent: tuple[float, str]) -> str:
    values = [last(run, measure) for run in runs if defense_of(run) == defense and _opponents(run) == opponent]
    found = [value for value in values if value is not None]
    return figure(fmean(found)) + (f" ({len(found)} runs)" if len(found) > 1 else "") if found else "-"


def safety_table(runs: Sequence[Run]) -> Table:
    """A row per run and evaluation."""
    rows: list[Row] = [{**row, "run": run.name} for run in runs for row in run.measured("rule_score")]
    return columns(rows, ["run", "rounds_done", "value", "low", "high"])


def _chart(runs: Sequence[Run]) -> Chart | None:
    measured = [run for run in runs if run.measured("rule_score")]
    if not measured:
        return None
    names = {"rounds_done": "rounds done", "value": "safety", "run": "run", "low": "from", "high": "to"}
    series = [
        Series(
            table="safety",
            columns=names,
            where={"run": [run.name]},
            style={
                "type": "line",
                "name": run.name,
                "color": f"var(--{_LINES[i % len(_LINES)]})",
                "symbol": _SYMBOLS[i % len(_SYMBOLS)],
                "symbolSize": 7,
                "lineStyle": {"type": _KINDS[i % len(_KINDS)]},
            },
        )
        for i, run in enumerate(measured)
    ]
    said = "; ".join(f"{run.name} {run.measured('rule_score')[-1]['value']:.3f}" for run in measured)
    option = {"xAxis": done_axis(), "yAxis": share_axis()}
    return Chart(name="safety", title="Safety by round", text=f"At the end: {said}.", series=series, option=option)
