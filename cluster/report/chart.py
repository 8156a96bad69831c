"""A chart as plain data: what is drawn from which table, in the terms of Apache ECharts, and what it says in words.

`page/charts.js` puts the rows in, draws the charts, and writes the tables below them. A colour is the name of a variable of
`page/style.css`, such as `var(--blue)`, so that the page's theme decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Option = Mapping[str, Any]
"""A part of an ECharts option."""
Table = Mapping[str, Sequence[object]]
"""Column -> its values; all columns have the same length."""
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What is drawn in one style."""

    table: str
    """The name of the table whose rows are drawn."""
    columns: Mapping[str, str]
    """Column -> heading. The first two are x and y, a third one is the colour's value; all are shown beside the pointer."""
    style: Option
    """ECharts' options of the series, its type among them."""
    where: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Column -> values that a row may have there to be drawn."""
    band: tuple[str, str] | None = None
    """Columns of the ends of an interval around y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart of the page."""

    name: str
    """Unique in the page; letters, digits and hyphens."""
    title: str
    text: str
    """What it shows, for somebody who does not see it."""
    series: Sequence[Series]
    option: Option = field(default_factory=dict)
    """Axes and the like, in ECharts' terms."""
    height: int = 320
    """CSS pixels."""
    notes: Sequence[str] = ()
    """Sentences below the chart."""


def round_axis(num_rounds: int) -> dict[str, object]:
    """A place per round, counted from 1."""
    rounds = [str(number) for number in range(1, num_rounds + 1)]
    return {"type": "category", "data": rounds, "name": "round", "nameLocation": "middle", "nameGap": 26}


def done_axis() -> dict[str, object]:
    """Rounds that were done when something was measured; 0: none."""
    return {"type": "value", "min": 0, "minInterval": 1, "name": "rounds done", "nameLocation": "middle", "nameGap": 26}


def share_axis() -> dict[str, object]:
    return {"type": "value", "min": 0, "max": 1}


def columns(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> dict[str, list[object]]:
    """Rows as a table of these columns."""
    return {name: [plain_value(row.get(name)) for row in rows] for name in names}


def plain_value(value: object) -> object:
    """A value as JSON knows it: a number to four significant digits; null for one that is not finite."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
