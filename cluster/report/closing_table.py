"""The tables that close a run: outcome, client groups, and several runs side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from cluster.config.loading import load_config
from cluster.report.reading import known_attackers
from cluster.report.run_result import RunResult
from defense.gate import Outcome

_REASONS_SHOWN = 5


def group_table(result: RunResult) -> Table:
    """A row per client group: its weights, and the share of its samples in steps that the probe flagged.

    Real participants are one group: nobody knows who of them is malicious.
    """
    attackers = known_attackers(result.path, load_config(result.path / "config.yaml"))
    is_malicious = pc.field("client_id").isin(pa.array(sorted(attackers or ()), pa.string()))
    groups = [("participants", ~is_malicious)] if attackers is None else [("benign", ~is_malicious), ("malicious", is_malicious)]
    rounds, table = result.rounds, Table(title="Clients by group", title_justify="left")
    _add_columns(table, ("group", "clients", "admitted", "refused", "flagged steps", "mean weight"))
    for group, members in groups:
        rows = rounds.filter(members)
        if rows.num_rows:
            admitted, ratio = rows.filter(pc.field("admitted")), _mean(rows["malicious_ratio"])
            counts = len(rows["client_id"].unique()), admitted.num_rows, rows.num_rows - admitted.num_rows
            flagged = "-" if ratio is None else f"{100 * ratio:.1f} %"
            table.add_row(group, *map(str, counts), flagged, _number(_mean(admitted["weight"])))
    return table


def none_aggregated(result: RunResult) -> str:
    """How the rounds of a run ended, and the most frequent reasons for which its clients did not count."""
    outcomes = {name: result.summary[f"rounds_{name}"] for name in get_args(Outcome)}
    rounds = ", ".join(f"{count} x {name}" for name, count in outcomes.items() if count)
    reasons = Counter(reason for reason in result.rounds["reason"].to_pylist() if reason is not None).most_common()
    shown = [f"{count} x {reason}" for reason, count in reasons[:_REASONS_SHOWN]]
    rest = [f"{len(reasons) - len(shown)} other reasons"] if len(reasons) > len(shown) else []
    return f"rounds {rounds}; clients {', '.join([*shown, *rest]) or 'were admitted, with too little weight'}"


def _mean(column: pa.ChunkedArray) -> float | None:
    """Over the values that are there; None without any."""
    values = column.drop_null().to_pylist()
    return sum(values) / len(values) if values else None


def outcome_table(results: Sequence[tuple[str, RunResult]]) -> Table:
    """A row per run and one for the base model: safety and how much of the base model's is kept, compliance, utility, weights,
    skipped rounds, seconds.

    Two columns come last, only where a run has them: rounds that the guard rolled back, and the share of restricted prompts that
    a backdoor's trigger opens.
    """
    table = Table(title="Outcome on held-out prompts (95 % interval of safety)", title_justify="left")
    columns = ("run", "safety", "kept", "compliance", "utility", "weight benign", "weight malicious", "skipped", "seconds")
    last = {}
    if any(result.summary.get("rounds_rolled_back") for _, result in results):
        last["rounds_rolled_back"] = "rolled back"
    if any(result.summary.get("attack_success") is not None for _, result in results):
        last["attack_success"] = "attack success"
    _add_columns(table, (*columns, *last.values()))
    if results:
        base = results[0][1].summary["base"]
        shown = [_number(base["rule_score"]), "", *(_number(base[name]) for name in ("compliance", "utility"))]
        table.add_row("base model", *shown, "", "", "", "", *(_number(base.get(name)) for name in last))
    for label, result in results:
        table.add_row(label, *_outcome_cells(result), *(_number(result.summary.get(name)) for name in last))
    return table


def spread_table(header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> Table:
    """A comparison over several seeds: a line per place of the matrix, its label first; the notes stand below."""
    table = Table(title="Outcome on held-out prompts", title_justify="left", caption="\n".join(notes), caption_justify="left")
    _add_columns(table, header)
    for line in lines:
        table.add_row(*line)
    return table


def _add_columns(table: Table, names: Sequence[str]) -> None:
    """The first has labels: one that is too long for the terminal goes on in the next line. Figures are never cut."""
    table.add_column(names[0], overflow="fold")
    for name in names[1:]:
        table.add_column(name, justify="right")


def _outcome_cells(result: RunResult) -> list[str]:
    summary = result.summary
    interval = summary["intervals"].get("rule_score")
    bounds = f" ({interval['low']:.2f}-{interval['high']:.2f})" if interval else ""
    return [
        _number(summary["rule_score"]) + bounds,
        *(
            _number(summary[name])
            for name in ("safety_kept", "compliance", "utility", "mean_weight_benign", "mean_weight_malicious")
        ),
        str(summary["rounds_skipped"]),
        f"{summary['wall_s']:.0f}",
    ]


def _number(value: float | None) -> str:
    """A count as it is, anything else to three digits."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
