"""Figures that can be worked out by hand."""

import math
from dataclasses import replace

from cluster.tracking.figures import evaluation_figures, probe_figures, round_figures
from tests.unit.cluster.builders import client_round, evaluation_report, probe_row, round_report


def test_a_round_counts_its_clients_and_weighs_losses_by_share():
    report = round_report(0, {"a": 1.0, "b": 1.0, "c": 0.0, "d": None})
    a, b, c, d = report.clients
    clients = (replace(a, share=0.25, loss=4.0), replace(b, share=0.75, loss=2.0), replace(c, share=0.0, loss=99.0), d)
    excluded = replace(clients[2], excluded_by="live")
    d = replace(d, share=0.0)
    found = round_figures(replace(report, clients=(*clients[:2], excluded, d), bounds={"live": 0.9, "canary": None}))
    assert found["round/loss"] == 0.25 * 4 + 0.75 * 2
    assert (found["round/clients"], found["round/admitted"], found["round/excluded"]) == (4, 3, 1)
    assert (found["round/aggregated"], found["round/mean_weight"], found["round/received_bytes"]) == (1, 0.5, 3000)
    assert found["round/bound/live"] == 0.9
    assert "round/bound/canary" not in found
    assert not any(part == "a" for name in found for part in name.split("/"))


def test_what_is_not_measured_or_not_finite_is_left_out():
    lying = replace(client_round(0, "a", 1.0), loss=math.inf)
    found = round_figures(replace(round_report(0, {}), clients=(lying,), mean_weight=None))
    assert not {"round/loss", "round/mean_weight", "round/refusal_rise"} & set(found)
    assert round_figures(round_report(0, {}))["round/clients"] == 0


def test_the_probe_and_an_evaluation():
    assert probe_figures(probe_row(0, blind=True))["probe/blind"] == 1
    found = evaluation_figures(evaluation_report(3, 0.9))
    assert (found["evaluation/rule_score"], found["evaluation/utility"]) == (0.9, 0.75)
    assert "evaluation/compliance" not in found
