"""What a finished run hands back to Python."""

import json

import pytest
from rich.console import Console

from cluster.report.run_result import RunResult
from tests.unit.cluster.report.run_directories import four_clients, write_run


@pytest.fixture
def result(tmp_path):
    path = write_run(tmp_path / "<b>[red]mine", four_clients())
    return RunResult(path, json.loads((path / "summary.json").read_text()))


def test_tables_are_arrow_and_become_data_frames(result):
    pytest.importorskip("pandas")
    assert result.rounds.num_rows == 12
    frame = result.rounds.to_pandas()
    assert frame[frame.client_id == "client-3"].weight.tolist() == [0.0, 0.0, 0.0]
    assert result.evaluation.to_pandas().query("measure == 'utility' and family.isnull()").value.tolist() == [0.75, 0.75]


def test_the_report_lies_in_the_directory(result):
    assert result.report() == result.path / "report.html"
    assert "Safety kept" in result.report().read_text()


def test_a_notebook_and_a_terminal_show_the_verdict_and_obey_nothing_in_it(result):
    html = result._repr_html_()
    assert "<strong>Safety kept</strong> (&lt;b&gt;[red]mine)" in html
    assert "0 of their 3 updates had half of the full weight or more" in html
    console = Console(width=200)
    with console.capture() as capture:
        console.print(result)
    assert capture.get().startswith("Safety kept (<b>[red]mine)\nAfter 3 rounds 85.0 %")
