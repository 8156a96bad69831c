"""The report as one page, or as Markdown, from the files of `page/`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from cluster.report.chart import Chart, Table
from cluster.report.charts.client import client_charts
from cluster.report.charts.measures import measures_chart
from cluster.report.charts.probe import probe_chart
from cluster.report.charts.seconds import seconds_chart
from cluster.report.charts.signals import signal_charts
from cluster.report.charts.traffic import traffic_chart
from cluster.report.charts.weights import weights_chart
from cluster.report.comparison import Comparison, compare, defense_of, safety_table
from cluster.report.grid import Grid, figure
from cluster.report.histories import History, histories
from cluster.report.reading import Run, find_runs, read_run
from cluster.report.tables import MEASURES, clients_table, measures_table, rounds_table, signal_columns
from cluster.report.text import shown, shown_in_markdown
from cluster.report.verdict import Verdict, judge

Format = Literal["html", "md"]
_FILES = Path(__file__).parent / "page"
_FEW = 8
"""Up to so many runs have charts of their own beside the others'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the page shows of one run."""

    run: Run
    about: str
    verdict: Verdict
    charts: Sequence[Chart]
    clients: Sequence[History]
    measures: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that the templates read."""

    title: str
    parts: Sequence[Part]
    comparison: Comparison | None
    made: str
    """When, in UTC."""
    version: str | None = None
    """Of the run's files, on a page that asks its server whether there is another; None: the page asks nobody."""


def render(places: Sequence[Path], kind: Format = "html", *, version: str | None = None) -> str:
    """The report of the runs in these directories; with a version, a page that `cluster/watching/` serves.

    Raises:
        ConfigError: a directory holds no run, or one that cannot be read.
    """
    runs = _named([read_run(path) for path in find_runs(places)])
    page = Page(
        title=f"Safe-FedLLM run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} Safe-FedLLM runs",
        parts=[_part(run, i, len(runs)) for i, run in enumerate(runs)],
        comparison=compare(runs) if len(runs) > 1 else None,
        made=datetime.now(UTC).isoformat(sep=" ", timespec="minutes"),
        version=version,
    )
    return _as_markdown(page) if kind == "md" else _as_html(page, runs)


def waiting_page(why: str, version: str) -> str:
    """A served page that says why there is no report yet."""
    template = _environment(autoescape=True, shown=shown).get_template("waiting.html")
    return template.render(why=why, title="Safe-FedLLM run", version=version, style=_file("style.css"), live=_file("live.js"))


def write_page(places: Sequence[Path], file: Path, kind: Format = "html") -> Path:
    """Write the report of the runs in these directories; returns the file. Raises as `render`, and OSError."""
    text = render(places, kind)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def brief(path: Path, kind: Literal["html", "txt"]) -> str:
    """The verdict on a run in a few lines, for a notebook or a terminal. Raises as `render`."""
    run = read_run(path)
    template = _environment(autoescape=kind == "html", shown=shown).get_template(f"brief.{kind}")
    return template.render(run=run, verdict=judge(run)).strip()


def _named(runs: Sequence[Run]) -> list[Run]:
    """Runs of one name are told apart by their directories."""
    names = [run.name for run in runs]
    return [
        run
        if names.count(run.name) == 1
        else dataclasses.replace(run, config=run.config.model_copy(update={"name": f"{run.path.resolve()}"}))
        for run in runs
    ]


def _part(run: Run, num: int, num_runs: int) -> Part:
    """Of one run all charts and clients; of several what is good to compare, and of many the verdict."""
    whole, place = num_runs == 1, _place(num, num_runs)
    beside = [measures_chart(run, place), weights_chart(run, place)] if 1 < num_runs <= _FEW else []
    return Part(
        run=run,
        about=f"{about(run)}. Directory: {run.path.resolve()}",
        verdict=judge(run),
        charts=charts_of(run) if whole else [chart for chart in beside if chart is not None],
        clients=histories(run) if whole else [],
        measures=measures_grid(run),
    )


def charts_of(run: Run) -> list[Chart]:
    """All charts of one run, in the order of its page."""
    charts = [
        measures_chart(run),
        weights_chart(run),
        *signal_charts(run),
        probe_chart(run),
        seconds_chart(run),
        traffic_chart(run),
    ]
    return [chart for chart in charts if chart is not None]


def _place(num: int, num_runs: int) -> str:
    """What the names of a run's charts and tables begin with."""
    return "" if num_runs == 1 else f"run-{num}-"


def about(run: Run) -> str:
    """What was run, in one line."""
    config = run.config
    model = f"embedded world {config.world.seed}" if config.is_embedded else config.model.path
    attack = f", {config.clients.malicious} simulated attackers ({config.clients.attack})" if config.clients.malicious else ""
    return (
        f"{config.clients.count} clients{attack}, {run.rounds_done} of {config.rounds} rounds, defense {defense_of(run)}, "
        f"model {model}, seed {config.seed}"
    )


def measures_grid(run: Run) -> Grid:
    """A line per evaluation."""
    table = measures_table(run)
    shown = [name for name in MEASURES if name in table]
    lines = [
        [str(done), *(_with_interval(table, name, i) for name in shown)] for i, done in enumerate(table.get("rounds_done", []))
    ]
    return Grid(["rounds done", *(MEASURES[name] for name in shown)], lines)


def _with_interval(table: Table, name: str, i: int) -> str:
    value, low, high = (table[column][i] for column in (name, f"{name}_low", f"{name}_high"))
    interval = f" ({low:.2f} to {high:.2f})" if isinstance(low, float) and isinstance(high, float) else ""
    return figure(value if isinstance(value, float) else None) + interval


def _as_html(page: Page, runs: Sequence[Run]) -> str:
    return _whole("page.html", _data(page, runs), title=page.title, version=page.version, page=page)


def _whole(template: str, data: Mapping[str, object], **facts: object) -> str:
    """A page that draws charts from this data."""
    return (
        _environment(autoescape=True, shown=shown)
        .get_template(template)
        .render(
            data=htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False),
            style=_file("style.css"),
            script=_file("charts.js"),
            live=_file("live.js"),
            echarts=_file("echarts/echarts.min.js"),
            **facts,
        )
    )


def chart_page(run: Run, chart: Chart) -> str:
    """A page of one chart of a run."""
    used = {series.table for series in chart.series}
    tables = {name: table for name, table in _tables(run, "").items() if name in used}
    data = {"tables": tables, "charts": [_shown_strings(dataclasses.asdict(chart))]}
    return _whole("figure.html", data, title=f"{chart.title}: {run.name}", version=None, chart=chart)


def _as_markdown(page: Page) -> str:
    text = markdown_environment().get_template("page.md").render(page=page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def markdown_environment() -> Environment:
    """Templates of Markdown, in which the filter `shown` leaves no markup in a text."""
    return _environment(autoescape=False, shown=shown_in_markdown)


def _environment(*, autoescape: bool, shown: Callable[[object], str]) -> Environment:
    found = Environment(
        loader=FileSystemLoader(_FILES), autoescape=autoescape, undefined=StrictUndefined, keep_trailing_newline=True
    )
    found.filters["shown"] = shown
    return found


def _file(name: str) -> Markup:
    """A file of ours or of ECharts, which stands in the page as it is."""
    return Markup((_FILES / name).read_text(encoding="utf-8"))


def _data(page: Page, runs: Sequence[Run]) -> Mapping[str, object]:
    """What charts.js reads: tables by name, charts, and the columns of a client's own table."""
    tables: dict[str, Table] = {}
    for i, run in enumerate(runs if len(runs) <= _FEW else []):
        tables |= _tables(run, _place(i, len(runs)))
    charts = [chart for part in page.parts for chart in part.charts]
    if page.comparison and page.comparison.chart:
        tables["safety"], charts = _shown_table(safety_table(runs)), [page.comparison.chart, *charts]
    names = {"round": "round", "state": "state", "weight": "weight", "share": "share of the aggregate"}
    last = {"update_norm": "norm", "max_norm": "bound of the norm", "loss": "loss", "train_s": "seconds"}
    signals = {name: name.replace("_", " ") for name in signal_columns(runs[0])}
    own_charts = client_charts(runs[0]) if len(runs) == 1 else []
    return {
        "tables": tables,
        "charts": [_shown_strings(dataclasses.asdict(chart)) for chart in charts],
        "client": names | signals | last | {"why": "why it did not count"},
        "client_charts": [dataclasses.asdict(chart) for chart in own_charts],
    }


def _tables(run: Run, place: str) -> dict[str, Table]:
    own = {"clients": clients_table, "rounds": rounds_table, "measures": measures_table}
    return {f"{place}{name}": _shown_table(make(run)) for name, make in own.items()}


def _shown_table(table: Table) -> Table:
    return {name: [shown(value) if isinstance(value, str) else value for value in values] for name, values in table.items()}


def _shown_strings(value: object) -> object:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {key: _shown_strings(own) for key, own in value.items()}
    return [_shown_strings(own) for own in value] if isinstance(value, (list, tuple)) else value
