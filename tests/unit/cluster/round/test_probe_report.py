"""cluster/round/probe_report.py: the row about a round's probe, from what probe, refresh and earlier rounds say."""

import pytest

from actors.messages import ProbeClose, ProbeRefresh
from cluster.round.probe_report import probe_round
from probe.drift import Drift
from tests.unit.cluster.builders import round_report

CALM = Drift(distance=0.2, share=0.3, critical=0.6, blind=False, message=None)
ALARM = Drift(distance=0.7, share=0.0, critical=0.6, blind=True, message="drifted")
HALF, NONE = {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}
"""Weights below 1/2 are flagged clients."""


def row(*weights, drift=CALM, refreshed=None):
    reports = [round_report(index, given) for index, given in enumerate(weights)]
    closed = ProbeClose(drift=drift, num_messages=5, score_s=0.25, num_bytes=600)
    return probe_round(reports, 3, closed, refreshed, refresh_wait_s=1.5, round_s=4.0)


def test_a_calm_round():
    given = row(HALF, HALF)
    assert (given.round, given.version, given.num_scores) == (1, 3, 2)
    assert (given.drift_distance, given.drift_critical) == (0.2, 0.6)
    assert (given.num_messages, given.score_s, given.score_bytes) == (5, 0.25, 600)
    assert not given.blind
    assert (given.warning, given.refresh, given.refresh_wait_s) == (None, None, None)


def test_drift_is_told():
    assert row(HALF, drift=ALARM).warning == "drifted"
    assert row(HALF, drift=ALARM).blind
    assert row(HALF, drift=None).drift_distance is None


def test_verdicts_that_collapse_are_told_even_when_the_scores_look_usual():
    given = row(HALF, HALF, NONE)
    assert given.blind
    assert "flags no client, in earlier rounds it flagged 50%" in given.warning
    assert row(NONE, NONE).warning is None


def test_a_round_without_verdicts_is_no_collapse():
    assert row(HALF, {"a": None, "b": None}).warning is None


@pytest.mark.parametrize("outcome", ["accepted", "kept", "rejected"])
def test_a_refresh_is_told_with_its_figures(outcome):
    refreshed = ProbeRefresh(round=0, outcome=outcome, why="because", metrics={"roc_auc": 0.9}, fit_s=0.5)
    given = row(HALF, refreshed=refreshed)
    assert given.refresh == outcome
    assert (given.refresh_why, given.refresh_auc) == ("because", 0.9)
    assert (given.refresh_wait_s, given.fit_s, given.round_s) == (1.5, 0.5, 4.0)
