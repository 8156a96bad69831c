"""The Grafana dashboard: well formed, and it shows the metrics that there are, all of them and no others."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from ray.util.metrics import Counter, Gauge, Histogram

import cluster
from cluster.reporting.instruments import PREFIX
from cluster.reporting.metrics import Metrics
from tests.unit.cluster.builders import Record

SUFFIXES = {Counter: ("",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}
WIDTH = 24


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((Path(cluster.__file__).parent / "dashboards/safe-fedllm.json").read_text())


@pytest.fixture(scope="module")
def made() -> dict[str, type]:
    """Name without the prefix -> kind, of every metric that a run makes."""
    record = Record()
    Metrics(record.instruments()).close()
    return record.kinds


def exported(name: str, kind: type) -> set[str]:
    """Names by which Prometheus knows a metric."""
    return {f"ray_{PREFIX}{name}{suffix}" for suffix in SUFFIXES[kind]}


def expressions(dashboard) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def shown(dashboard) -> set[str]:
    return {name for expression in expressions(dashboard) for name in re.findall(rf"ray_{PREFIX}\w+", expression)}


def test_only_metrics_that_exist_are_shown(dashboard, made):
    known = set().union(*(exported(name, kind) for name, kind in made.items()))
    assert shown(dashboard) <= known
    assert f"ray_{PREFIX}round" in known  # the variable `run` takes its values from it


def test_every_metric_is_shown(dashboard, made):
    assert [name for name, kind in made.items() if not exported(name, kind) & shown(dashboard)] == []


def test_a_counters_name_is_the_one_that_prometheus_shows(made):
    assert all(name.endswith("_total") == (kind is Counter) for name, kind in made.items())


def test_every_panel_has_a_place_of_its_own(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] >= 0 and place["y"] >= 0 and place["x"] + place["w"] <= WIDTH for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_panels_read_the_chosen_source_and_run(dashboard):
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["run"]["query"]["query"] == f"label_values(ray_{PREFIX}round, run)"
    drawn = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in drawn)
    assert all(panel["targets"] and panel["title"] and panel["description"] for panel in drawn)
    for expression in expressions(dashboard):
        selectors = re.findall(rf"ray_{PREFIX}\w+(\{{[^}}]*\}})?", expression)
        assert all('run="$run"' in selector for selector in selectors), expression


def test_brackets_close(dashboard):
    for expression in expressions(dashboard):
        assert all(expression.count(left) == expression.count(right) for left, right in ("()", "[]", "{}")), expression
