"""The tables of the charts."""

import math
from dataclasses import replace

import pytest

from cluster.report.chart import plain_value
from cluster.report.reading import read_run
from cluster.report.states import STATES, state_of
from cluster.report.tables import SECONDS, clients_table, measures_table, rounds_table
from tests.unit.cluster.builders import client_round
from tests.unit.cluster.report.run_directories import OWN, four_clients, report, write_run


def test_a_row_per_client_and_round_with_state_mark_and_reason(tmp_path):
    table = clients_table(read_run(write_run(tmp_path / "mine", four_clients())))
    assert table["round"] == [1] * 4 + [2] * 4 + [3] * 4
    assert table["state"][:4] == ["counted", "counted", "late", "excluded"]
    assert table["state"][8:] == ["not aggregated", "not aggregated", "not aggregated", "excluded"]
    assert table["mark"][:4] == ["", "", "L", ""]
    assert table["why"][2] == "late: no update"
    assert table["why"][3].startswith("level live: P(malicious) 0.99 is at or above 0.9")
    assert table["group"][:4] == ["honest", "honest", "honest", "attacker"]


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("pending: no actor", "pending"),
        ("client_lost: killed", "lost"),
        ("no_data: none", "no data"),
        ("not_finite: nan", "refused"),
    ],
)
def test_every_reason_has_its_state(tmp_path, reason, state):
    row = replace(client_round(0, "a", 0.0, admitted=False), reason=reason)
    run = read_run(write_run(tmp_path / "mine", [report(0, row)]))
    assert state_of(run.clients[0]) == state
    assert state in STATES


@pytest.mark.parametrize(("weight", "state"), [(0.0, "excluded"), (0.49, "weighed down"), (0.5, "counted")])
def test_less_than_half_of_the_weight_is_weighed_down(tmp_path, weight, state):
    table = clients_table(read_run(write_run(tmp_path / "mine", [report(0, client_round(0, "a", weight))])))
    assert table["state"] == [state]
    assert (table["why"] == ["weight 0.49, since the probe flagged it"]) is (state == "weighed down")


def test_real_participants_have_no_group(tmp_path):
    assert "group" not in clients_table(read_run(write_run(tmp_path / "mine", four_clients(), overrides=OWN, attackers=[])))


def test_the_parts_of_a_round_make_its_whole_time(tmp_path):
    table = rounds_table(read_run(write_run(tmp_path / "mine", four_clients())))
    parts = {name: table[name][0] for name in SECONDS}
    assert parts == {
        "scoring": 0.5,
        "refreshing": 1.0,
        "canary": 0.5,
        "validation": 0.0,
        "preservation": 0.0,
        "aggregating": 0.5,
        "training": 1.5,
    }
    assert table["bound_live"] == [0.9, 0.9, 0.9]
    assert table["outcome"] == ["aggregated", "aggregated", "skipped"]
    assert table["update_mb"] == [0.003, 0.004, 0.004]
    assert table["score_mb"] == [2.0, 2.0, 2.0]


def test_measures_have_their_intervals(tmp_path):
    table = measures_table(read_run(write_run(tmp_path / "mine", four_clients())))
    assert table["rounds_done"] == [0, 3]
    assert (table["rule_score"], table["rule_score_low"], table["rule_score_high"]) == ([0.9, 0.85], [0.8, 0.75], [1.0, 0.95])
    assert table["utility"] == [0.75, 0.75]


@pytest.mark.parametrize(("value", "plain"), [(math.nan, None), (math.inf, None), (1 / 3, 0.3333), (12345.6, 12350.0), (7, 7)])
def test_numbers_have_four_digits_and_what_json_lacks_is_null(value, plain):
    assert plain_value(value) == plain
