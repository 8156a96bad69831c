"""Each signal: every client's value by round against the bound of its level."""

from __future__ import annotations

from cluster.report.chart import Chart, Series, round_axis
from cluster.report.reading import Run
from cluster.report.states import COUNTING, STATES, state_of
from cluster.report.tables import signal_columns
from defense.levels import LEVELS

_TITLES = {
    "last_step_probability": "Probe score: P(malicious) of the last step, or of the update",
    "malicious_ratio": "Share of a client's samples in steps that the probe flagged",
    "canary_rise": "Canary: by how much the update makes the server's refusals less likely",
    "validation_cosine": "Validation: cosine to the server's own update",
    "validation_fall": "Validation: by how much the update lowers the server's loss",
    "task_rise": "Utility: by how much the update makes answers less likely, of the task that it harms most",
    "task_cosine": "Utility: how far the update points to the unlearning of that task",
    "agreement": "Consensus: agreement with the other clients in the round",
    "copies": "Consensus: how many updates of the round go the same way, the client's own included",
    "flatness": "Spectrum: over how many directions the update spreads",
    "update_norm": "Admission: L2 norm of the update",
    "trust_step": "Trust of level step: the share of clean samples so far",
    "trust_client": "Trust of level client: the mean over a client's rounds",
    "trust_evidence": "Trust of level evidence: the mean weight of a client's last verdicts",
    "trust_utility": "Trust of level utility: how far a client's updates point to unlearning, in the mean over its rounds",
    "trust_consensus": "Trust of level consensus: agreement above the bound, in the mean over a client's rounds",
}
_IN_THE_MEAN = "The level judges by the mean over the client's rounds, so one round beyond the bound may be no ground."
_NOTES = {
    "task_rise": "Level utility counts a round only where this is ln 3 = 1.1 nats per answer or more.",
    "task_cosine": f"{_IN_THE_MEAN} A round that makes answers less likely by less than ln 3 nats counts as 0.",
    "agreement": _IN_THE_MEAN,
    "copies": "A client weighs 1/k with k times as many as the median client has.",
    "trust_utility": "Level utility excludes a client at or above its bound, which is drawn with the signal.",
    "trust_consensus": "Level consensus excludes a client at 0 or below.",
}
_KINDS = {
    "counts": ("var(--blue)", COUNTING),
    "counts less or not": ("var(--red)", tuple(state for state in STATES if state not in COUNTING)),
}
_SYMBOLS = {"honest": "circle", "attacker": "triangle"}


def signal_charts(run: Run, place: str = "") -> list[Chart]:
    """A chart per column that was measured, of trust among them, and one of the norm that admission bounds."""
    return [_chart(run, column, place) for column in [*signal_columns(run), "update_norm"] if _has(run, column)]


def _has(run: Run, column: str) -> bool:
    return any(row.get(column) is not None for row in run.clients)


def _chart(run: Run, column: str, place: str) -> Chart:
    level = _level_of(run, column)
    series, bound = _points(run, column, place), bound_line(run, column, place)
    return Chart(
        name=f"{place}signal-{column.replace('_', '-')}",
        title=_TITLES.get(column, column),
        text=_text(run, column, level),
        series=[*series, bound] if bound else series,
        option={"xAxis": round_axis(run.rounds_done), "yAxis": {"type": "value", "scale": True}},
        notes=_notes(column, level, bound is not None),
    )


def bound_line(run: Run, column: str, place: str = "") -> Series | None:
    """The bound of admission or of a level by round; None where the column has none."""
    if column == "update_norm":
        name, label, known = "max_norm", "bound of admission", _has(run, "max_norm")
    else:
        level = _level_of(run, column)
        name, label = f"bound_{level}", f"bound of {level}"
        known = any((event.get("bounds") or {}).get(level) is not None for event in run.rounds.values())
    if not known:
        return None
    line = {"type": "line", "name": "bound", "color": "var(--ink)", "symbol": "none", "lineStyle": {"type": "dashed", "width": 2}}
    return Series(table=f"{place}rounds", columns={"round": "round", name: label}, style={**line, "z": 1})


def _level_of(run: Run, column: str) -> str | None:
    """The level of the run that judges by the column's bound."""
    own = {name: LEVELS[name].bounded for name in run.config.defense.levels}
    return next((name for name, bounded in own.items() if bounded and bounded.column == column), None)


def _points(run: Run, column: str, place: str) -> list[Series]:
    names = {"round": "round", column: column, "client_id": "client", "state": "state", "why": "why"}
    found = []
    for kind, (colour, states) in _KINDS.items():
        for group, symbol in _SYMBOLS.items() if run.attackers is not None else [("", "circle")]:
            where = {"state": states, **({"group": [group]} if group else {})}
            label = f"{group}, {kind}" if group else kind
            style = {"type": "scatter", "name": label, "color": colour, "symbol": symbol, "symbolSize": 8, "z": 2}
            found.append(Series(table=f"{place}clients", columns=names, where=where, style=style))
    return found


def _text(run: Run, column: str, level: str | None) -> str:
    rows = [row for row in run.clients if row.get(column) is not None]
    parts = []
    for label, is_in in (("that counted", True), ("that counted by less than half, or not", False)):
        values = [row[column] for row in rows if (state_of(row) in COUNTING) is is_in]
        if values:
            parts.append(f"{len(values)} updates {label}: {min(values):.3g} to {max(values):.3g}")
    judged = f" Level {level} excluded {sum(row['excluded_by'] == level for row in rows)} of them." if level else ""
    return "; ".join(parts) + "." + judged


def _notes(column: str, level: str | None, has_bound: bool) -> list[str]:
    notes = []
    if level and (bounded := LEVELS[level].bounded):
        notes.append(
            f"Level {level} excludes a client {bounded.side} its bound." if has_bound else f"Level {level} had no bound."
        )
    if column == "update_norm" and has_bound:
        notes.append("Admission refuses a larger update.")
    if column in _NOTES:
        notes.append(_NOTES[column])
    return notes
