"""The published status: plain data made from a run's events, and its table."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from cluster.config.schema import RunConfig
from cluster.reporting.status import LiveStatus, client_state, first_status, status_rows, status_table
from tests.unit.cluster.builders import evaluation_report, probe_row, round_report


@pytest.fixture
def published():
    return []


class Clock:
    now = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def status(published, clock):
    status = LiveStatus("mine", "/runs/mine", published.append, lambda: clock.now)
    status.starting(RunConfig(rounds=7))
    status.members_changed(["a", "b", "c"])
    return status


def test_a_client_is_pending_until_a_round_takes_it(status, published):
    status.round_started(0, ["a", "b"])
    assert published[-1]["clients"] == {"a": "running", "b": "running", "c": "pending"}
    status.client_done("a")
    assert published[-1]["counts"] == {"done": 1, "running": 1, "pending": 1}


def test_a_round_of_many_clients_publishes_about_a_hundred_of_their_ends(status, published):
    names = [f"client-{number:04d}" for number in range(1_000)]
    status.members_changed(names)
    status.round_started(0, names)
    before = len(published)
    for name in names:
        status.client_done(name)
    assert len(published) - before == 100
    assert [shown["counts"].get("done") for shown in published[before : before + 3]] == [10, 20, 30]
    assert published[-1]["counts"] == {"done": 1_000}


def test_a_client_without_room_is_pending_again(status, published):
    status.round_started(0, ["a", "b", "c"])
    status.round_finished(round_report(0, {"a": 1.0, "b": 1.0, "c": 1.0}))
    status.round_started(1, ["a"])
    status.clients_waiting(1, ["c"])
    assert published[-1]["clients"] == {"a": "running", "b": "done", "c": "pending"}


def test_a_client_that_ends_without_an_update_is_late_or_lost_while_the_round_goes_on(status, published):
    status.round_started(0, ["a", "b", "c"])
    status.client_done("a", "late: no update within clients.timeout_s=120 s")
    status.client_done("b", "client_lost: killed")
    assert published[-1]["clients"] == {"a": "slow", "b": "lost", "c": "running"}
    rows = status_rows(published[-1])
    assert [rows[name] for name in ("delivered", "training", "late", "lost")] == ["0 of 3 clients", "c", "a", "b"]


def test_the_end_is_expected_from_the_median_round(status, published, clock):
    for index, seconds in enumerate([60, 10, 10]):
        status.round_started(index, ["a"])
        clock.now += timedelta(seconds=seconds)
        status.round_finished(round_report(index, {"a": 1.0}))
    assert published[-1]["expected_end"] == "2026-01-01T00:02:00+00:00"  # 80 s, and 4 of 7 rounds of 10 s
    status.state_changed("running")
    assert "expected end" in status_rows(published[-1])


def test_a_round_leaves_states_weights_and_rates(status, published, clock):
    status.round_started(0, ["a", "b"])
    clock.now += timedelta(seconds=4)
    status.round_finished(round_report(0, {"a": 0.25, "b": None}))
    last = published[-1]
    assert last["clients"] == {"a": "done", "b": "slow", "c": "pending"}
    assert last["weights"] == {"a": 0.25, "b": 0.0}
    assert (last["round_s"], last["updates_per_s"]) == (4.0, 0.25)


def test_clients_that_leave_are_no_longer_shown(status, published):
    status.members_changed(["a"])
    assert list(published[-1]["clients"]) == ["a"]


def test_every_status_is_plain_json_and_a_table(status, published):
    status.probe_judged(probe_row(0, version=3))
    status.evaluated(evaluation_report(0, 0.75))
    status.round_started(0, ["a", "b", "c"])
    status.round_finished(round_report(0, {"a": 1.0, "b": 0.0, "c": None}, "skipped"))
    status.state_changed("paused")
    shown = json.loads(json.dumps(published[-1])) | {"orders": [["scale", 3], ["pause", None]]}
    console = Console(width=120)
    with console.capture() as captured:
        console.print(status_table(shown))
    for part in ("mine: paused", "1 of 7, last skipped", "late", "a 1.00, b 0.00", "safety 0.750", "scale 3, pause"):
        assert part in captured.get()


def test_a_run_that_has_not_started_has_a_table():
    assert str(status_table(first_status("mine")).title) == "mine: starting"


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("late: no update", "slow"),
        ("pending: no client actor", "pending"),
        ("client_lost: node died", "lost"),
        ("not_finite: NaN", "refused"),
        ("client_failed: DataError", "refused"),
    ],
)
def test_the_reason_says_what_became_of_a_client(reason, state):
    assert client_state(False, reason) == state
    assert client_state(True, None) == "done"
