"""The probe: how far its scores have drifted from those of its training, and how well it separates, by round."""

from __future__ import annotations

from cluster.report.chart import Chart, Series, round_axis, share_axis
from cluster.report.reading import Run


def probe_chart(run: Run, place: str = "") -> Chart | None:
    """None without a probe."""
    if not run.probe:
        return None
    names = {"round": "round", "version": "version", "refresh": "refresh", "warning": "warning"}
    series = [
        _line(place, {"round": "round", "drift_distance": "drift", **names}, "drift", "var(--blue)", "circle", "solid"),
        _line(
            place,
            {"round": "round", "drift_critical": "drift that is significant"},
            "significant",
            "var(--ink)",
            "none",
            "dashed",
        ),
        _line(
            place, {"round": "round", "refresh_auc": "AUC", **names}, "AUC after a refresh", "var(--green)", "diamond", "dotted"
        ),
    ]
    return Chart(
        name=f"{place}probe",
        title="Quality and drift of the probe by round",
        text=_text(run),
        series=series,
        option={"xAxis": round_axis(run.rounds_done), "yAxis": share_axis()},
        notes=[
            "Drift: Kolmogorov-Smirnov distance of the round's scores from those of the probe's training.",
            "AUC: how well the probe ranks reference clients that its fit did not see; 0.5 is chance, 1 is perfect.",
        ],
    )


def _line(place: str, columns: dict[str, str], name: str, colour: str, symbol: str, kind: str) -> Series:
    style = {"type": "line", "name": name, "color": colour, "symbol": symbol, "symbolSize": 8, "lineStyle": {"type": kind}}
    return Series(table=f"{place}rounds", columns=columns, style={**style, "connectNulls": True})


def _text(run: Run) -> str:
    blind = [row["round"] + 1 for row in run.probe if row["blind"]]
    refreshes = sum(row["refresh"] is not None for row in run.probe)
    drifted = sum(1 for row in run.probe if (row["drift_distance"] or 0) > (row["drift_critical"] or 1))
    sight = f"The probe was blind in {len(blind)} rounds." if blind else "The probe was blind in no round."
    return f"{sight} {refreshes} refreshes, version {run.probe[-1]['version']} at the end; significant drift in {drifted} rounds."
