"""The bytes that clients sent, by round."""

from __future__ import annotations

from cluster.report.chart import Chart, Series, round_axis
from cluster.report.reading import Run

_PARTS = {"update_mb": ("updates", "var(--blue)"), "score_mb": ("what the probe read", "var(--yellow)")}


def traffic_chart(run: Run, place: str = "") -> Chart | None:
    updates = sum(row["num_bytes"] for row in run.clients)
    scored = sum(row["score_bytes"] or 0 for row in run.probe)
    if not updates:
        return None
    shown = [name for name, total in (("update_mb", updates), ("score_mb", scored)) if total]
    text = f"The clients' updates were {updates / 1e6:.2f} MB in all rounds together; the probe read {scored / 1e6:.2f} MB."
    return Chart(
        name=f"{place}bytes",
        title="Bytes by round",
        text=text,
        series=[
            Series(
                table=f"{place}rounds",
                columns={"round": "round", name: f"{_PARTS[name][0]}, MB"},
                style={"type": "bar", "name": _PARTS[name][0], "color": _PARTS[name][1], "barMaxWidth": 40},
            )
            for name in shown
        ],
        option={"xAxis": round_axis(run.rounds_done), "yAxis": {"type": "value", "name": "MB"}},
        notes=["Tensors alone; a probe that reads the update itself reads the same bytes again."],
    )
