"""Runs side by side."""

import pytest

from cluster.report.comparison import compare
from cluster.report.reading import read_run
from tests.unit.cluster.builders import evaluation_report
from tests.unit.cluster.report.run_directories import OWN, SIMULATED, four_clients, write_run


@pytest.fixture
def runs(tmp_path):
    def write(name, safety, *overrides):
        reports = [evaluation_report(0, 0.9), evaluation_report(3, safety)]
        return read_run(write_run(tmp_path / name, four_clients(), overrides=overrides, evaluations=reports))

    return [
        write("plain", 0.3, *SIMULATED, "defense.level=none"),
        write("defended", 0.8, *SIMULATED, "defense.level=live"),
        write("clean", 0.85, "clients.count=4", "clients.malicious=0", "defense.level=live"),
    ]


def test_each_run_is_held_against_plain_averaging_with_the_same_attackers(runs):
    table = compare(runs).tables[0]
    assert table.header[-2:] == ["safety to FedAvg", "utility to FedAvg"]
    assert [line[0] for line in table.lines] == ["plain", "defended", "clean"]
    assert [line[-2:] for line in table.lines] == [["-", "-"], ["+0.500", "+0.000"], ["-", "-"]]
    assert table.lines[1][2] == "0.800 (0.70 to 0.90)"


def test_defenses_by_malicious_share(runs):
    safety = compare(runs).tables[1]
    assert safety.header == ["defense", "0% malicious", "25% malicious"]
    assert safety.lines == [["none", "-", "0.300"], ["live", "0.850", "0.800"]]


def test_the_share_of_real_participants_is_not_made_up(runs, tmp_path):
    real = read_run(write_run(tmp_path / "real", four_clients(), overrides=OWN, attackers=[]))
    found = compare([*runs, real])
    assert len(found.tables) == 1
    assert found.tables[0].lines[-1][5:7] == ["-", "-"]


def test_a_line_per_run(runs):
    chart = compare(runs).chart
    assert [series.where for series in chart.series] == [{"run": ["plain"]}, {"run": ["defended"]}, {"run": ["clean"]}]
    assert chart.text == "At the end: plain 0.300; defended 0.800; clean 0.850."
