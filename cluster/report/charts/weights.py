"""The weight of every client in every round, with what kept clients out marked."""

from __future__ import annotations

from collections import Counter

from cluster.report.chart import Chart, Series, round_axis
from cluster.report.reading import Run
from cluster.report.states import LETTERS, STATES, state_of

_WEIGHED = ("counted", "weighed down", "excluded")
_COLOURS = {
    "refused": "var(--red)",
    "late": "var(--yellow)",
    "pending": "var(--grey)",
    "lost": "var(--purple)",
    "no data": "var(--sky)",
    "not aggregated": "var(--faint)",
}
_ROOMY, _NARROW, _FEW = 22, 14, 60
"""CSS pixels of a client's row, where there are few clients and where there are more."""


def weights_chart(run: Run, place: str = "") -> Chart | None:
    """A map of clients by rounds; simulated attackers stand below the honest clients."""
    if not run.clients:
        return None
    ids, counts = run.client_ids, Counter(state_of(row) for row in run.clients)
    marks = [state for state in LETTERS if counts[state]]
    names = {"round": "round", "client_id": "client", "weight": "weight", "state": "state", "why": "why"}
    cells = {"type": "heatmap", "itemStyle": {"borderWidth": 1, "borderColor": "var(--paper)"}}
    series = [Series(table=f"{place}clients", columns=names, where={"state": _WEIGHED}, style={**cells, "name": "weight"})]
    maps: list[dict[str, object]] = [
        {
            "type": "continuous",
            "min": 0,
            "max": 1,
            "dimension": 2,
            "seriesIndex": 0,
            "text": ["1", "weight 0"],
            "inRange": {"color": ["var(--weight-0)", "var(--weight-1)"]},
            "orient": "horizontal",
            "left": 8,
            "top": 0,
            "itemHeight": 90,
        }
    ]
    if marks:
        marked = {**names, "mark": "mark"}
        letters = {"show": True, "formatter": "{@[5]}", "color": "var(--ink-on-mark)", "fontSize": 10}
        style = {**cells, "name": "without weight", "label": letters}
        series.append(Series(table=f"{place}clients", columns=marked, where={"state": marks}, style=style))
        maps.append(
            {
                "type": "piecewise",
                "categories": marks,
                "dimension": 3,
                "seriesIndex": 1,
                "inRange": {"color": {state: _COLOURS[state] for state in marks}},
                "orient": "horizontal",
                "left": 8,
                "top": 28,
            }
        )
    return Chart(
        name=f"{place}weights",
        title="Weight of every client by round",
        text=_text(run, counts),
        series=series,
        option={
            "grid": {"top": 40 + 28 * bool(marks)},
            "visualMap": maps,
            "xAxis": {**round_axis(run.rounds_done)},
            "yAxis": {"type": "category", "data": ids, "inverse": True},
        },
        height=140 + (_ROOMY if len(ids) <= _FEW else _NARROW) * len(ids),
        notes=_notes(run, marks),
    )


def _text(run: Run, counts: Counter[str]) -> str:
    said = ", ".join(f"{count} {state}" for state in STATES if (count := counts[state]))
    return f"{len(run.client_ids)} clients over {run.rounds_done} rounds: of {sum(counts.values())} client-rounds {said}."


def _notes(run: Run, marks: list[str]) -> list[str]:
    notes = ["Weight 0: a level of the defense excluded the client; the table says which, and why."]
    notes += [f"{LETTERS[state]}: {state}, {STATES[state]}." for state in marks]
    if run.attackers:
        notes.append(f"Simulated attackers stand below: {len(run.attackers)} of the clients.")
    return notes
