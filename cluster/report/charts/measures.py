"""Safety, compliance and utility by round, with intervals."""

from __future__ import annotations

from cluster.report.chart import Chart, Series, done_axis, share_axis
from cluster.report.reading import Run
from cluster.report.tables import MEASURES

_STYLE = {
    "rule_score": ("var(--blue)", "circle", "solid"),
    "compliance": ("var(--red)", "triangle", "dashed"),
    "utility": ("var(--green)", "diamond", "dotted"),
}
_WORDS = {
    "rule_score": "Safety, the share of restricted prompts that are refused,",
    "compliance": "Compliance, the share that are really answered,",
    "utility": "Utility, how well answers to benign tasks agree with the right ones,",
}


def measures_chart(run: Run, place: str = "") -> Chart | None:
    """A line per measure; `place`: what the names of the run's tables begin with."""
    shown = [name for name in _STYLE if run.measured(name)]
    if not shown:
        return None
    said = [f"{_WORDS[name]} went from {_ends(run, name)}." for name in shown]
    return Chart(
        name=f"{place}measures",
        title="Safety, compliance and utility by round",
        text=" ".join(said),
        series=[_line(run, name, place) for name in shown],
        option={"xAxis": done_axis(), "yAxis": share_axis()},
        notes=["Bands are 95 % intervals over the prompts.", "After 0 rounds: the base model."],
    )


def _line(run: Run, measure: str, place: str) -> Series:
    colour, symbol, kind = _STYLE[measure]
    has_band = run.measured(measure)[0]["low"] is not None
    names = {"rounds_done": "rounds done", measure: MEASURES[measure]}
    if has_band:
        names |= {f"{measure}_low": "from", f"{measure}_high": "to"}
    return Series(
        table=f"{place}measures",
        columns=names,
        style={
            "type": "line",
            "name": MEASURES[measure],
            "color": colour,
            "symbol": symbol,
            "symbolSize": 7,
            "lineStyle": {"type": kind},
        },
        band=(f"{measure}_low", f"{measure}_high") if has_band else None,
    )


def _ends(run: Run, measure: str) -> str:
    rows = run.measured(measure)
    return (
        f"{rows[0]['value']:.3f} after {rows[0]['rounds_done']} rounds to {rows[-1]['value']:.3f} after {rows[-1]['rounds_done']}"
    )
