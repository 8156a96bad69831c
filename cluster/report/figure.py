"""One chart of the report as an object of its own: a notebook draws it, a terminal says what it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from cluster.report.chart import Chart
from cluster.report.page import chart_page, charts_of
from cluster.report.reading import Run
from cluster.report.text import shown

_AROUND = 190
"""CSS pixels for title, text, notes and the head of the table."""
_FRAME = Markup('<iframe title="{}" sandbox="allow-scripts" style="width: 100%; height: {}px; border: 0" srcdoc="{}"></iframe>')


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its data. In a notebook it is drawn in a frame of its own, which loads nothing and reaches nothing outside."""

    chart: Chart = field(repr=False)
    run: Run = field(repr=False)

    def html(self) -> str:
        """A page that opens without a network."""
        return chart_page(self.run, self.chart)

    def save(self, file: Path | str) -> Path:
        """Write the page; returns the file. Raises OSError."""
        path = Path(file)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return f"{self.chart.title}: {shown(self.chart.text)}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _FRAME.format(self.chart.title, self.chart.height + _AROUND, self.html())


def figures(run: Run) -> dict[str, Figure]:
    """Name -> figure, in the order of the page."""
    return {chart.name: Figure(chart, run) for chart in charts_of(run)}
