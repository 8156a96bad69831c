"""A log told again gives the status that the run itself published."""

from datetime import UTC, datetime, timedelta

import pytest

from cluster.config.loading import dump_config, load_config
from cluster.reporting.callback import Callbacks
from cluster.reporting.event_log import EventLog
from cluster.reporting.replay import ReplayedStatus
from cluster.reporting.status import LiveStatus
from tests.unit.cluster.builders import evaluation_report, round_report

CONFIG = load_config(None, ["rounds=7"])


class Clock:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def path(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(CONFIG))
    return tmp_path


@pytest.fixture
def run(path):
    """The events of a run, which its log and its status hear of."""
    log, published = EventLog(path / "events.jsonl", "mine", Clock()), []
    told = Callbacks(log, LiveStatus(path.name, str(path), published.append, Clock()))
    told.published = published
    told.starting(CONFIG)
    told.members_changed(["a", "b", "c"])
    told.state_changed("running")
    told.evaluated(evaluation_report(0, 0.75))
    return told


def test_it_is_the_status_that_the_run_published(path, run):
    replayed = ReplayedStatus(path)
    run.round_started(0, ["a", "b", "c"])
    run.clients_waiting(0, ["c"])
    run.client_done("a")
    run.client_done("b", "late: no update")
    assert replayed.look()["clients"] == {"a": "done", "b": "slow", "c": "pending"}
    assert replayed.look() == run.published[-1]
    run.round_finished(round_report(0, {"a": 1.0, "b": None, "c": 0.5}))
    seen, published = replayed.look(), run.published[-1]
    times = ("round_s", "updates_per_s", "expected_end")  # the log has a moment for each event
    assert {k: v for k, v in seen.items() if k not in times} == {k: v for k, v in published.items() if k not in times}
    assert (seen["round_s"], seen["updates_per_s"]) == (4.0, 0.5)
    assert seen["measures"]["rule_score"] == 0.75


def test_half_a_line_waits_for_the_rest_and_a_broken_one_is_passed_over(path, run):
    replayed, log = ReplayedStatus(path), path / "events.jsonl"
    run.round_started(0, ["a", "b", "c"])
    whole = log.read_bytes()
    log.write_bytes(whole[:-5])
    assert replayed.look()["round"] == 0
    log.write_bytes(whole + b'{"event": "round"}\n{"event": 7\n')
    assert replayed.look()["round"] == 1


def test_a_new_log_in_its_place_is_read_from_the_beginning(path, run):
    replayed = ReplayedStatus(path)
    run.round_started(5, ["a"])
    assert replayed.look()["round"] == 6
    (path / "events.jsonl").unlink()
    EventLog(path / "events.jsonl", "mine", Clock()).round_started(0, ["a"])
    assert replayed.look()["round"] == 1
