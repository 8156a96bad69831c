"""Where the time of each round went."""

from __future__ import annotations

from cluster.report.chart import Chart, Series, round_axis
from cluster.report.reading import Run
from cluster.report.tables import SECONDS, rounds_table

_COLOURS = dict(
    zip(SECONDS, ("sky", "yellow", "green", "purple", "red", "blue", "grey"), strict=True),
)


def seconds_chart(run: Run, place: str = "") -> Chart | None:
    """None where events.jsonl is lost."""
    table = rounds_table(run)
    totals = {part: sum(value for value in table[part] if isinstance(value, float)) for part in SECONDS if part in table}
    shown = [part for part in SECONDS if totals.get(part)]
    if not shown:
        return None
    said = ", ".join(f"{SECONDS[part]} {totals[part]:.1f} s" for part in sorted(shown, key=lambda part: -totals[part]))
    return Chart(
        name=f"{place}seconds",
        title="Where the time went, by round",
        text=f"All rounds together took {sum(totals.values()):.1f} seconds: {said}.",
        series=[_bars(part, place) for part in shown],
        option={"xAxis": round_axis(run.rounds_done), "yAxis": {"type": "value", "name": "seconds"}},
        notes=["Scores and canary overlap the training. The start of actors and evaluations are not among the rounds."],
    )


def _bars(part: str, place: str) -> Series:
    style = {"type": "bar", "stack": "seconds", "name": SECONDS[part], "color": f"var(--{_COLOURS[part]})", "barMaxWidth": 40}
    return Series(table=f"{place}rounds", columns={"round": "round", part: f"{SECONDS[part]}, s"}, style=style)
