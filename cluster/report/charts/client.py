"""What the page of one client draws: what levels remember of it, and the norm of its updates against admission's bound."""

from __future__ import annotations

from cluster.report.chart import Chart, Series, round_axis
from cluster.report.charts.signals import bound_line
from cluster.report.reading import Run
from cluster.report.tables import signal_columns
from defense.levels import TRUST_COLUMNS

_COLOURS = ("blue", "green", "purple", "sky")
_SYMBOLS = ("circle", "triangle", "diamond", "rect")


def client_charts(run: Run) -> list[Chart]:
    """Charts of all clients' rows: the page draws them of the rows of the client that a person opens."""
    trust = [column for column in signal_columns(run) if column in TRUST_COLUMNS]
    styles = zip(_COLOURS, _SYMBOLS, strict=True)
    lines = [_line(column, TRUST_COLUMNS[column], *style) for column, style in zip(trust, styles, strict=False)]
    norm, bound = _line("update_norm", "norm", "blue", "circle"), bound_line(run, "update_norm")
    has_norm = any(row["update_norm"] is not None for row in run.clients)
    found = [
        _chart(run, "client-trust", "Trust after each round, by level", lines),
        _chart(run, "client-norm", "Norm of the update", [norm, *([bound] if bound else [])] if has_norm else []),
    ]
    return [chart for chart in found if chart.series]


def _chart(run: Run, name: str, title: str, series: list[Series]) -> Chart:
    option = {"xAxis": round_axis(run.rounds_done), "yAxis": {"type": "value", "scale": True}}
    return Chart(name=name, title=title, text="Its figures stand in the table.", series=series, option=option, height=220)


def _line(column: str, name: str, colour: str, symbol: str) -> Series:
    style = {"type": "line", "name": name, "color": f"var(--{colour})", "symbol": symbol, "symbolSize": 7, "z": 2}
    columns = {"round": "round", column: name, "state": "state"}
    return Series(table="clients", columns=columns, style={**style, "connectNulls": True})
