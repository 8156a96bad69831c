"""A chart as an object: what a notebook, a file and a terminal get."""

import html
import re

import pytest

from cluster.report.figure import figures
from cluster.report.reading import read_run
from tests.unit.cluster.report.run_directories import four_clients, write_run
from tests.unit.cluster.report.test_page import data_of


@pytest.fixture
def drawn(tmp_path):
    return figures(read_run(write_run(tmp_path / "mine", four_clients())))


def test_a_figure_for_each_chart_of_the_report_says_what_it_shows(drawn):
    names = ["measures", "weights", "signal-last-step-probability", "signal-malicious-ratio", "signal-update-norm", "probe"]
    assert list(drawn) == [*names, "seconds", "bytes"]
    assert str(drawn["weights"]) == repr(drawn["weights"])
    assert str(drawn["weights"]).startswith(
        "Weight of every client by round: 4 clients over 3 rounds: of 12 client-rounds 5 counted"
    )


def test_a_file_holds_one_chart_and_the_tables_that_it_draws_from(drawn, tmp_path):
    page = drawn["seconds"].save(tmp_path / "seconds.html").read_text()
    data = data_of(page)
    assert ([chart["name"] for chart in data["charts"]], list(data["tables"])) == (["seconds"], ["rounds"])
    assert re.findall(r'<figure class="chart" id="([\w-]+)"', page) == ["seconds"]
    assert "connect-src" not in page


def test_a_notebook_gets_the_same_page_in_a_frame_that_reaches_nothing(drawn):
    shown = drawn["weights"]._repr_html_()
    assert shown.startswith('<iframe title="Weight of every client by round" sandbox="allow-scripts"')
    assert html.unescape(re.search(r'srcdoc="([^"]*)"></iframe>$', shown)[1]) == drawn["weights"].html()
