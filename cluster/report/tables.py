"""The tables that the charts of a run draw from, column by column."""

from __future__ import annotations

from cluster.report.chart import Table, columns
from cluster.report.reading import Row, Run
from cluster.report.states import LETTERS, state_of, why
from defense.levels import LEVELS, TRUST_COLUMNS

MEASURES = {
    "rule_score": "safety",
    "compliance": "compliance",
    "utility": "utility",
    "over_refusal": "over-refusal",
    "over_refusal_sounds_unsafe": "over-refusal, sounds unsafe",
    "benign_loss": "loss",
    "perplexity": "perplexity",
}
"""Measure -> what people call it."""
SECONDS = {
    "scoring": "probe's scores",
    "refreshing": "reference clients, refresh",
    "canary": "canary",
    "validation": "validation",
    "preservation": "preservation",
    "aggregating": "aggregator",
    "training": "training and the rest",
}
"""Part of a round's time -> what people call it."""


def clients_table(run: Run) -> Table:
    """A row per client per round: `round` counts from 1."""
    measured = ["update_norm", "max_norm", "loss", "num_samples", "train_s", "num_bytes"]
    table = columns(run.clients, ["client_id", "weight", "share", *signal_columns(run), *measured])
    states = [state_of(row) for row in run.clients]
    table |= {
        "round": [row["round"] + 1 for row in run.clients],
        "state": states,
        "mark": [LETTERS.get(state, "") for state in states],
        "why": [why(row) for row in run.clients],
    }
    if run.attackers is not None:
        table["group"] = ["attacker" if row["client_id"] in run.attackers else "honest" for row in run.clients]
    return table


def signal_columns(run: Run) -> list[str]:
    """Columns that the run's levels judge by, in order, where anything was measured; what they remember comes last."""
    wanted = ["last_step_probability", "malicious_ratio", *(name for level in LEVELS.values() for name in level.columns)]
    wanted += TRUST_COLUMNS
    return [name for name in wanted if any(row.get(name) is not None for row in run.clients)]


def rounds_table(run: Run) -> Table:
    """A row per round: outcome, bounds of admission and levels, seconds by part, megabytes, and what is known of the probe."""
    by_round: dict[int, list[Row]] = {}
    for row in run.clients:
        by_round.setdefault(row["round"], []).append(row)
    probe = {row["round"]: row for row in run.probe}
    rows = [_round_row(run, index, own, probe.get(index, {})) for index, own in sorted(by_round.items())]
    names = dict.fromkeys(name for row in rows for name in row)
    return columns(rows, list(names))


def _round_row(run: Run, index: int, clients: list[Row], probe: Row) -> dict[str, object]:
    event = run.rounds.get(index, {})
    bounds = {f"bound_{level}": value for level, value in (event.get("bounds") or {}).items()}
    return {
        "round": index + 1,
        "outcome": clients[0]["round_outcome"],
        "max_norm": clients[0].get("max_norm"),
        **bounds,
        **_seconds(event, probe),
        "update_mb": sum(row["num_bytes"] for row in clients) / 1e6,
        "score_mb": (probe.get("score_bytes") or 0) / 1e6,
        **{
            name: probe.get(name) for name in ("version", "drift_distance", "drift_critical", "refresh", "refresh_auc", "warning")
        },
    }


def _seconds(event: Row, probe: Row) -> dict[str, float | None]:
    """Seconds of a round by part (`SECONDS`); None where its log is lost.

    Scores and the canary overlap the training: the rest is what is left of the round after all that is measured.
    """
    if event.get("round_s") is None:
        return dict.fromkeys(SECONDS)
    measured = event.get("measuring_s") or {}
    parts = {
        "scoring": probe.get("score_s") or 0.0,
        "refreshing": probe.get("refresh_wait_s") or 0.0,
        **{name: measured.get(name, 0.0) for name in ("canary", "validation", "preservation")},
        "aggregating": (event.get("admit_s") or 0.0) + (event.get("aggregate_s") or 0.0),
    }
    return {**parts, "training": max(0.0, event["round_s"] - sum(parts.values()))}


def measures_table(run: Run) -> Table:
    """A row per evaluation: each measure with its 95 % interval."""
    rows: dict[int, dict[str, object]] = {}
    for measure in MEASURES:
        for row in run.measured(measure):
            own = rows.setdefault(row["rounds_done"], {"run": run.name, "rounds_done": row["rounds_done"]})
            own |= {measure: row["value"], f"{measure}_low": row["low"], f"{measure}_high": row["high"]}
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return columns([rows[key] for key in sorted(rows)], list(names))
