"""The tables that close a run: outcome, client groups, and several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from cluster.federation import RunResult


def group_table(result: RunResult) -> Table:
    """A row per client group: how it was weighed and what the probe said of it."""
    truth = pq.read_table(result.path / "ground_truth.parquet")
    malicious = set(truth.filter(pc.field("malicious"))["client_id"].to_pylist())
    rows = result.rounds.to_pylist()
    table = Table(title="Clients by group", title_justify="left")
    for name in ("group", "clients", "admitted", "refused", "flagged steps", "mean weight"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group, members in (
        ("benign", [r for r in rows if r["client_id"] not in malicious]),
        ("malicious", [r for r in rows if r["client_id"] in malicious]),
    ):
        if members:
            table.add_row(group, *_group_cells(members))
    return table


def _group_cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    ratios = [row["malicious_ratio"] for row in rows if row["malicious_ratio"] is not None]
    weights = [row["weight"] for row in rows if row["admitted"]]
    return [
        str(len({row["client_id"] for row in rows})),
        str(len(weights)),
        str(len(rows) - len(weights)),
        _percent(sum(ratios) / len(ratios)) if ratios else "-",
        _number(sum(weights) / len(weights) if weights else None),
    ]


def outcome_table(results: Sequence[tuple[str, RunResult]]) -> Table:
    """A row per run and one for the base model: safety, compliance, utility, weights, skipped rounds, seconds.

    Two columns stand at the end where they say something: rounds that the guard rolled back, and the share of restricted prompts
    that a backdoor's trigger opens.
    """
    table = Table(title="Outcome on held-out prompts (95 % interval of safety)", title_justify="left")
    columns = ("run", "safety", "compliance", "utility", "weight benign", "weight malicious", "skipped", "seconds")
    last = _last_columns([result.summary for _, result in results])
    for name in (*columns, *last.values()):
        _add_column(table, name, is_label=name == "run")
    if results:
        base = results[0][1].summary["base"]
        shown = [_number(base[name]) for name in ("rule_score", "compliance", "utility")]
        table.add_row("base model", *shown, "", "", "", "", *(_figure(base.get(name)) for name in last))
    for label, result in results:
        table.add_row(label, *_outcome_cells(result.summary), *(_figure(result.summary.get(name)) for name in last))
    return table


def _last_columns(summaries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Figure of a summary -> its name in the table."""
    columns = {}
    if any(summary.get("rounds_rolled_back") for summary in summaries):
        columns["rounds_rolled_back"] = "rolled back"
    if any(summary.get("attack_success") is not None for summary in summaries):
        columns["attack_success"] = "attack success"
    return columns


def spread_table(header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> Table:
    """A comparison over several seeds: a line per place of the matrix, its label first; the notes stand below."""
    table = Table(title="Outcome on held-out prompts", title_justify="left", caption="\n".join(notes), caption_justify="left")
    for name in header:
        _add_column(table, name, is_label=name == header[0])
    for line in lines:
        table.add_row(*line)
    return table


def _add_column(table: Table, name: str, *, is_label: bool) -> None:
    """A label that is too long for the terminal goes on in the next line; figures are never cut."""
    table.add_column(name, justify="left" if is_label else "right", overflow="fold" if is_label else "ellipsis")


def _outcome_cells(summary: dict[str, Any]) -> list[str]:
    interval = summary["intervals"].get("rule_score")
    bounds = f" ({interval['low']:.2f}-{interval['high']:.2f})" if interval else ""
    return [
        _number(summary["rule_score"]) + bounds,
        _number(summary["compliance"]),
        _number(summary["utility"]),
        _number(summary["mean_weight_benign"]),
        _number(summary["mean_weight_malicious"]),
        str(summary["rounds_skipped"]),
        f"{summary['wall_s']:.0f}",
    ]


def _figure(value: float | None) -> str:
    return str(value) if isinstance(value, int) else _number(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
