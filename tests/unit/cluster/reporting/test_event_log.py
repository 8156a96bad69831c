"""events.jsonl: a line per event with round and client, valid JSON whatever clients send, and whole after a kill."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from actors.messages import Proportion
from cluster.config.schema import RunConfig
from cluster.reporting.event_log import EventLog
from tests.unit.cluster.builders import client_round, evaluation_report, probe_row, round_report

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


@pytest.fixture
def log(path):
    return EventLog(path, "mine", now=lambda: NOW)


def lines(path) -> list[dict]:
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def only(path, **expected) -> dict:
    """The one line that there is, which has at least these fields."""
    (line,) = lines(path)
    assert {name: line[name] for name in expected} == expected
    return line


def test_every_line_has_time_event_and_run(log, path):
    log.starting(RunConfig(rounds=7, seed=3))
    line = only(path, time="2026-01-02T03:04:05.678+00:00", event="starting", run="mine", rounds=7, seed=3)
    assert line["level"] == RunConfig().defense.level
    assert not any("malicious" in name for name in line)


def test_the_time_is_utc(path):
    EventLog(path, "mine").order_refused("because")
    (line,) = lines(path)
    assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0


def test_a_round_has_a_line_per_client_and_one_of_its_own(log, path):
    log.round_started(4, ["a", "b"])
    log.round_finished(round_report(4, {"a": 0.25, "b": None}, "skipped"))
    started, a, b, ended = lines(path)
    assert (started["event"], started["round"], started["client_ids"]) == ("round_started", 4, ["a", "b"])
    assert (a["event"], a["round"], a["client_id"], a["weight"], a["reason"]) == ("client", 4, "a", 0.25, None)
    assert (b["event"], b["client_id"], b["admitted"], b["reason"]) == ("client", "b", False, "late: no update")
    assert (a["last_step_probability"], a["num_bytes"]) == (0.5, 1000)
    assert (ended["event"], ended["round"], ended["outcome"], ended["why"]) == ("round", 4, "skipped", "because")
    assert 0 <= ended["round_s"] < 60


def test_a_client_that_has_ended_has_a_line_with_the_reason_where_it_delivered_nothing(log, path):
    log.round_started(4, ["a", "b"])
    log.client_done("a")
    log.client_done("b", "late: no update")
    _, a, b = lines(path)
    assert (a["event"], a["round"], a["client_id"], a["reason"]) == ("client_done", 4, "a", None)
    assert (b["client_id"], b["reason"]) == ("b", "late: no update")


def test_a_probes_judgement(log, path):
    log.probe_judged(probe_row(2, version=3, refresh="rejected", refresh_why="too few", warning="drift"))
    only(path, event="probe", round=2, version=3, refresh="rejected", refresh_why="too few", warning="drift", blind=False)


@pytest.mark.parametrize(("rounds_done", "round_index"), [(0, None), (3, 2)])
def test_an_evaluation_names_the_last_round_of_its_adapter_and_leaves_out_the_outcome_of_each_prompt(
    log, path, rounds_done, round_index
):
    share = Proportion(value=0.5, low=0.1, high=0.9, count=2, outcomes="10")
    log.evaluated(replace(evaluation_report(rounds_done, 0.75), rule_score=share, utility_by_family={"a": share}))
    plain = {"value": 0.5, "low": 0.1, "high": 0.9, "count": 2}
    line = only(path, event="evaluation", round=round_index, rounds_done=rounds_done, utility=0.75, compliance=None)
    assert (line["rule_score"], line["utility_by_family"]) == (plain, {"a": plain})


@pytest.mark.parametrize(("rounds_done", "round_index"), [(0, None), (3, 2)])
def test_a_fall_under_the_bound_names_the_last_round_of_its_adapter(log, path, rounds_done, round_index):
    log.safety_fell(evaluation_report(rounds_done, 0.25), 0.9)
    only(path, event="safety_fell", round=round_index, rule_score=0.25, stop_below=0.9)


@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (lambda log: log.members_changed(("a", "b")), {"event": "members", "client_ids": ["a", "b"]}),
        (lambda log: log.order_carried_out(5, "scale 3"), {"event": "order", "round": 5, "order": "scale 3"}),
        (lambda log: log.order_refused("scale 0"), {"event": "order_refused", "why": "scale 0"}),
        (lambda log: log.round_lost(2, "the probe is gone"), {"event": "round_lost", "round": 2, "why": "the probe is gone"}),
        (lambda log: log.resumed(3, round_report(2, {})), {"event": "resumed", "round": 3}),
        (lambda log: log.state_changed("paused"), {"event": "state", "state": "paused"}),
        (lambda log: log.clients_waiting(1, ["a"]), {"event": "waiting", "round": 1, "client_ids": ["a"]}),
        (lambda log: log.realigned(15, 2.5), {"event": "realigned", "steps": 15, "seconds": 2.5}),
    ],
)
def test_every_other_event_is_a_line(log, path, happens, expected):
    happens(log)
    only(path, **expected)


def test_a_failure_names_its_round_and_client_and_keeps_the_traceback(log, path):
    log.round_started(1, ["a"])
    log.client_failed("a", 'Traceback:\n  "é\udcff"\nDataError')
    line = lines(path)[-1]
    assert (line["event"], line["round"], line["client_id"]) == ("client_failed", 1, "a")
    assert line["traceback"] == 'Traceback:\n  "é\udcff"\nDataError'


def test_what_stays_the_same_is_logged_once(log, path):
    for state in ("running", "running", "paused", "paused", "running"):
        log.state_changed(state)
    for round_index, waiting in enumerate([[], ["a"], ["a"], []]):
        log.clients_waiting(round_index, waiting)
    assert [line["state"] for line in lines(path)[:3]] == ["running", "paused", "running"]
    assert [(line["round"], line["client_ids"]) for line in lines(path)[3:]] == [(1, ["a"]), (3, [])]


def test_a_loss_that_is_not_finite_is_null(log, path):
    rows = tuple(replace(client_round(0, "a", 0.0), loss=loss) for loss in (math.nan, math.inf, -math.inf))
    log.round_finished(replace(round_report(0, {}), clients=rows))
    assert [line["loss"] for line in lines(path)[:-1]] == [None, None, None]


def test_a_resumed_run_adds_to_what_is_there(log, path):
    log.order_refused("first")
    EventLog(path, "mine").order_refused("second")
    assert [line["why"] for line in lines(path)] == ["first", "second"]


def test_half_a_line_of_a_killed_driver_spoils_nothing_that_follows(log, path):
    log.order_refused("first")
    with path.open("ab") as file:
        file.write(b'{"time": "2026-01-0')
    EventLog(path, "mine").order_refused("second")
    first, torn, second = path.read_text().splitlines()
    assert json.loads(first)["why"] == "first"
    assert torn == '{"time": "2026-01-0'
    assert json.loads(second)["why"] == "second"


def test_an_empty_file_stays_empty_until_something_happens(path):
    path.touch()
    EventLog(path, "mine")
    assert path.read_bytes() == b""
