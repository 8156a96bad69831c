"""The page and the Markdown: whole, small, and nothing that others wrote is obeyed."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.report.page import render
from cluster.report.tables import SECONDS
from defense import levels
from tests.unit.cluster.builders import client_round
from tests.unit.cluster.report.run_directories import OWN, excluded, four_clients, report, write_run

ROOT = Path(__file__).parents[4]
HOSTILE = (
    "<script>alert(1)</script>",
    "[red]x[/red] \x1b[31mred\x1b[0m",
    "n" * 10_000,
    "</script><img src=x onerror=alert(1)>",
    '" onclick="alert(1)',
    "{{ 7 * 7 }} | `code` [a](b)",
)


@pytest.fixture
def hostile(tmp_path):
    rows = [replace(client_round(0, name, 0.0, admitted=False), reason=f"malformed: {name}") for name in HOSTILE]
    rows[0] = excluded(0, HOSTILE[0], excluded_because=HOSTILE[3])
    return write_run(tmp_path / "mine", [report(0, *rows)], overrides=OWN, attackers=[])


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_has_every_chart_with_words_and_data(tmp_path):
    page = render([write_run(tmp_path / "mine", four_clients())])
    data = data_of(page)
    names = ["measures", "weights", "signal-last-step-probability", "signal-malicious-ratio", "signal-update-norm", "probe"]
    assert [chart["name"] for chart in data["charts"]] == [*names, "seconds", "bytes"]
    assert re.findall(r'<figure class="chart" id="([\w-]+)"', page) == [chart["name"] for chart in data["charts"]]
    for chart in data["charts"]:
        assert chart["text"].endswith(".")
        for series in chart["series"]:
            table = data["tables"][series["table"]]
            assert set(series["columns"]) <= set(table), chart["name"]
            assert len({len(values) for values in table.values()}) == 1
    assert len(page) < 3_000_000


def test_the_bound_of_a_level_is_drawn_with_its_signal(tmp_path):
    data = data_of(render([write_run(tmp_path / "mine", four_clients())]))
    (chart,) = (chart for chart in data["charts"] if chart["name"] == "signal-last-step-probability")
    assert [series["style"]["name"] for series in chart["series"]] == [
        "honest, counts",
        "attacker, counts",
        "honest, counts less or not",
        "attacker, counts less or not",
        "bound",
    ]
    assert chart["text"].endswith("Level live excluded 3 of them.")


def test_each_signal_has_a_title_in_words_and_a_level_with_a_memory_says_how_it_judges(tmp_path):
    signals = dict.fromkeys([*levels.SIGNAL_COLUMNS, *levels.TRUST_COLUMNS], 0.5)
    rows = [replace(client_round(0, "client-0", 1.0), signals=signals)]
    overrides = ["defense.level=canary+utility+consensus", "evaluation.validation_path=rows.jsonl"]
    data = data_of(render([write_run(tmp_path / "mine", [report(0, *rows)], overrides=overrides)]))
    by_name = {chart["name"]: chart for chart in data["charts"]}
    assert not [chart["title"] for chart in data["charts"] if "_" in chart["title"]]
    for column in ("agreement", "task-cosine"):
        assert any("the mean over the client's rounds" in note for note in by_name[f"signal-{column}"]["notes"])
    assert any("ln 3" in note for note in by_name["signal-task-rise"]["notes"])


def test_trust_and_the_bound_of_the_norm_are_drawn_and_stand_in_a_clients_own_charts(tmp_path):
    trusted = [client_round(0, "client-0", 1.0), client_round(0, "client-1", 0.5)]
    rows = [replace(row, signals={"trust_step": row.weight}) for row in trusted]
    data = data_of(render([write_run(tmp_path / "mine", [report(0, *rows)])]))
    by_name = {chart["name"]: chart for chart in data["charts"]}
    assert by_name["signal-trust-step"]["text"] == "2 updates that counted: 0.5 to 1."
    assert by_name["signal-update-norm"]["series"][-1]["columns"] == {"round": "round", "max_norm": "bound of admission"}
    assert (data["tables"]["rounds"]["max_norm"], data["tables"]["clients"]["max_norm"]) == ([4.0], [4.0, 4.0])
    own = {chart["name"]: [series["style"]["name"] for series in chart["series"]] for chart in data["client_charts"]}
    assert own == {"client-trust": ["step"], "client-norm": ["norm", "bound"]}
    assert data["client"]["trust_step"] == "trust step"


def test_without_ground_truth_the_page_names_no_attacker(tmp_path):
    path = write_run(tmp_path / "mine", four_clients(), overrides=OWN, attackers=[])
    page = render([path])
    assert "Nobody knows which of these participants are malicious" in page
    assert "Known from the simulation" not in page
    assert "simulated attacker" not in page
    assert "attacker" not in json.dumps(data_of(page))
    assert "attacker" not in render([path], "md")


def test_what_others_wrote_is_text_in_the_page(hostile):
    page = render([hostile])
    assert page.count("<script") == 3  # the data, ECharts and ours
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&#34; onclick=&#34;alert(1)" in page
    assert "{{ 7 * 7 }}" in page
    assert "… (10000 characters)" in page
    assert "n" * 700 not in page
    assert HOSTILE[0] in data_of(page)["tables"]["clients"]["client_id"]


def test_what_others_wrote_is_text_in_markdown(hostile):
    text = render([hostile], "md")
    assert "<script" not in text.replace("\\<", "")
    assert r"\[a\](b)" in text
    assert "\\x1b" in text.replace("\\\\", "\\")
    assert "\x1b" not in text


def test_a_run_without_log_probe_or_evaluation_has_fewer_charts(tmp_path):
    path = write_run(tmp_path / "mine", four_clients(), probe=[], evaluations=[])
    (path / "events.jsonl").unlink()
    names = [chart["name"] for chart in data_of(render([path]))["charts"]]
    assert "weights" in names
    assert not {"measures", "probe", "seconds"} & set(names)


def test_several_runs_stand_side_by_side_and_the_same_name_is_told_apart(tmp_path):
    paths = [write_run(tmp_path / folder / "mine", four_clients()) for folder in ("a", "b")]
    page = render(paths)
    data = data_of(page)
    assert [chart["name"] for chart in data["charts"]] == [
        "safety",
        *(f"run-{i}-{x}" for i in (0, 1) for x in ("measures", "weights")),
    ]
    assert set(data["tables"]["safety"]["run"]) == {str(path) for path in paths}
    assert "Side by side" in page


def test_many_runs_have_tables_and_verdicts_only(tmp_path):
    for i in range(9):
        write_run(tmp_path / "all" / f"run-{i}", four_clients())
    page = render([tmp_path / "all"])
    assert [chart["name"] for chart in data_of(page)["charts"]] == ["safety"]
    assert len(page) < 3_000_000


def test_markdown_has_the_verdict_the_measures_and_each_client(tmp_path):
    text = render([write_run(tmp_path / "mine", four_clients())], "md")
    assert text.startswith("# Safe-FedLLM run mine\n")
    assert "**Safety kept.** After 3 rounds 85.0 %" in text
    assert "| 3 | 0.850 (0.75 to 0.95) |" in text
    assert "### client-3 (simulated attacker)" in text
    assert all(name in text for name in ("Where the time went", SECONDS["training"]))


def test_the_charting_library_is_the_file_that_its_origin_names():
    folder = ROOT / "cluster" / "report" / "page" / "echarts"
    found = hashlib.sha256((folder / "echarts.min.js").read_bytes()).hexdigest()
    assert f"SHA-256:  {found}" in (folder / "ORIGIN.txt").read_text()
