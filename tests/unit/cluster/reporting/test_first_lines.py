"""What a person reads first of a run."""

import pytest

from cluster.config.loading import load_config
from cluster.reporting.first_lines import FirstLines
from tests.unit.cluster.builders import probe_row
from tests.unit.cluster.report.run_directories import four_clients


@pytest.fixture
def said():
    return []


def test_each_level_says_what_it_reads_and_the_references_when_they_train(said):
    FirstLines(said.append).starting(load_config(None))
    assert said == [
        "level live: reads the probe, on the update",
        "level canary: reads the server's refusals",
        "level spectrum: reads the singular values of the update",
        "level consensus: compares the clients' updates",
        "references: 16 trainings of the server's own, 8 of each class, in round 1 and where clients are in doubt",
    ]


def test_what_the_defense_takes_is_said_of_the_first_two_rounds(said):
    lines = FirstLines(said.append)
    lines.starting(load_config(None, ["defense.level=live"]))
    said.clear()
    for report, waited in zip(four_clients(3), (9.0, None, None), strict=True):
        lines.round_finished(report)
        lines.probe_judged(probe_row(report.round, round_s=15.0, refresh_wait_s=waited, score_s=0.25))
    assert said == [
        "round 1 took 15.0 s, the defense 9.8 s: references 9.0 s, probe 0.2 s, canary 0.5 s; reference clients trained in "
        "this round",
        "round 2 took 15.0 s, the defense 0.8 s: probe 0.2 s, canary 0.5 s",
    ]


def test_without_a_probe_the_clock_has_the_seconds(said):
    moments = iter([10.0, 13.5])
    lines = FirstLines(said.append, lambda: next(moments))
    lines.starting(load_config(None, ["defense.level=canary"]))
    said.clear()
    lines.round_started(0, ["a"])
    lines.round_finished(four_clients(1)[0])
    assert said == ["round 1 took 3.5 s, the defense 0.5 s: canary 0.5 s"]
