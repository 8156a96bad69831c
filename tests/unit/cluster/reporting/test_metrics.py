"""The metrics of every event, on Ray's own metrics; tests/integration/test_submission.py reads them as Prometheus does."""

import math
from dataclasses import replace
from math import exp

import pytest

from cluster.reporting.metrics import Metrics
from tests.unit.cluster.builders import Record, client_round, evaluation_report, probe_row, round_report

STATES = ("running", "done", "slow", "pending", "lost", "refused")


class Clock:
    """Time that passes only when a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def instruments(record):
    return record.instruments()


@pytest.fixture
def metrics(instruments, clock):
    metrics = Metrics(instruments, clock)
    metrics.members_changed(["a", "b", "c"])
    yield metrics
    metrics.close()


def parts(record) -> dict[str, float]:
    return {part: record["round_part_seconds", part] for part in ("training", "refresh", "scoring", "aggregating")}


def states(record) -> dict[str, int]:
    return {state: count for state in STATES if (count := record["clients", state])}


def play_round(metrics, clock, report, *, aggregate_s=0.5):
    """A round in which the last client ends after 6 seconds, and which is over after 8."""
    metrics.round_started(report.round, [row.client_id for row in report.clients])
    for row in report.clients:
        clock.now += 6.0 / len(report.clients)
        metrics.client_done(row.client_id)
    clock.now += 2.0
    metrics.round_finished(replace(report, aggregate_s=aggregate_s))


def test_a_round_has_its_outcome_and_its_seconds(metrics, record, clock):
    play_round(metrics, clock, round_report(0, {"a": 0.25, "b": None}))
    assert record["round"] == 1
    assert record["rounds_total", "aggregated"] == 1
    assert record["round_seconds"] == [pytest.approx(8.0)]
    assert parts(record) == pytest.approx({"training": 6.0, "refresh": 0.0, "scoring": 1.5, "aggregating": 0.5})
    assert record["train_seconds"] == [0.1, 0.1]


def test_skipped_and_lost_rounds_are_counted(metrics, record, clock):
    for index, outcome in enumerate(["skipped", "no_quorum", "skipped"]):
        play_round(metrics, clock, round_report(index, {"a": 0.0}, outcome))
    metrics.round_lost(3, "an actor died")
    counts = {outcome: record["rounds_total", outcome] for outcome in ("aggregated", "skipped", "no_quorum", "lost")}
    assert counts == {"aggregated": 0, "skipped": 2, "no_quorum": 1, "lost": 1}


def test_the_figures_of_refusals_are_those_of_rounds_that_measured_them(metrics, record, clock):
    play_round(metrics, clock, round_report(0, {"a": 1.0}))
    assert not record.series("refusal_rise")
    play_round(
        metrics,
        clock,
        replace(round_report(1, {"a": 1.0}, "rolled_back"), refusal_rise=0.5, preserved_rise=0.125, guard_sum=0.25),
    )
    names = ("aggregated", "preserved", "guard_sum")
    assert [record["refusal_rise", name] for name in names] == [0.5, 0.125, 0.25]
    assert record["rounds_total", "rolled_back"] == 1


def test_the_seconds_of_a_round_begun_again_are_those_of_its_last_attempt(metrics, record, clock):
    metrics.round_started(0, ["a"])
    clock.now += 50.0
    metrics.round_lost(0, "an actor died")
    play_round(metrics, clock, round_report(0, {"a": 1.0}))
    assert sum(parts(record).values()) == pytest.approx(8.0)


def test_a_round_in_which_no_client_ended_has_no_training(metrics, record, clock):
    metrics.round_started(0, [])
    clock.now += 1.0
    metrics.round_finished(round_report(0, {}, "no_quorum"))
    assert parts(record) == pytest.approx({"training": 0.0, "refresh": 0.0, "scoring": 1.0, "aggregating": 0.0})


def test_a_probes_row_without_a_refresh(metrics, record, clock):
    play_round(metrics, clock, round_report(0, {"a": 1.0}))
    metrics.probe_judged(probe_row(0, version=3, blind=True, num_messages=4, score_s=0.2, score_bytes=600))
    metrics.probe_judged(probe_row(1, version=3, num_messages=6, score_s=0.3, score_bytes=900))
    assert (record["probe_version"], record["probe_blind"]) == (3, 0.0)
    assert record["probe_score_seconds_total"] == pytest.approx(0.5)
    assert record["probe_messages_total"] == 10
    assert record["received_bytes_total", "probe"] == 1500
    assert not record.series("probe_refreshes_total")
    assert not record.series("probe_refresh_wait_seconds")
    assert parts(record)["refresh"] == 0.0


@pytest.mark.parametrize(("wait_s", "scoring_s"), [(1.25, 0.25), (9.0, 0.0)])
def test_a_probes_row_with_a_refresh_takes_its_wait_from_the_rest(metrics, record, clock, wait_s, scoring_s):
    play_round(metrics, clock, round_report(0, {"a": 1.0}))
    metrics.probe_judged(probe_row(0, version=4, refresh="accepted", refresh_wait_s=wait_s, fit_s=0.5))
    metrics.probe_judged(probe_row(1, version=4, refresh="rejected", refresh_wait_s=wait_s))
    assert record["probe_refresh_wait_seconds"] == [wait_s, wait_s]
    assert (record["probe_refreshes_total", "accepted"], record["probe_refreshes_total", "rejected"]) == (1, 1)
    assert parts(record) == pytest.approx({"training": 6.0, "refresh": wait_s, "scoring": scoring_s, "aggregating": 0.5})


def test_nothing_scored_counts_nothing(metrics, record):
    metrics.probe_judged(probe_row(0))
    assert record["probe_blind"] == 0.0
    for name in ("probe_score_seconds_total", "probe_messages_total", "received_bytes_total"):
        assert not record.series(name)


def test_clients_are_counted_by_state_as_the_round_goes_on(metrics, record):
    assert states(record) == {"pending": 3}
    metrics.round_started(0, ["a", "b"])
    metrics.client_done("a")
    assert states(record) == {"running": 1, "done": 1, "pending": 1}
    metrics.round_finished(round_report(0, {"a": 1.0, "b": None}))
    assert states(record) == {"done": 1, "slow": 1, "pending": 1}
    metrics.round_started(1, ["a", "b"])
    metrics.clients_waiting(1, ["a", "c"])
    assert states(record) == {"running": 1, "pending": 2}


@pytest.mark.parametrize(
    ("admitted", "reason", "state", "label"),
    [
        (False, "client_lost: its node died", "lost", "client_lost"),
        (False, "nothing was received", "refused", "nothing was received"),
        (True, "no_evidence: 1 steps without a score", "done", "no_evidence"),
    ],
)
def test_clients_with_a_reason_are_counted_by_state_and_reason(metrics, record, admitted, reason, state, label):
    metrics.members_changed(["a"])
    row = replace(client_round(0, "a", 0.0, admitted=admitted), reason=reason)
    metrics.round_finished(replace(round_report(0, {}), clients=(row,)))
    assert states(record) == {state: 1}
    assert record.series("refusals_total") == {(label,)}


def test_bytes_of_updates_add_up(metrics, record):
    for index in range(2):
        metrics.round_finished(round_report(index, {"a": 1.0, "b": 0.5, "c": None}))
    assert record["received_bytes_total", "aggregator"] == 4000


@pytest.mark.parametrize("train_s", [math.nan, math.inf, -1.0, None])
def test_seconds_that_a_client_cannot_have_trained_are_left_out(metrics, record, train_s):
    row = replace(client_round(0, "a", 1.0), train_s=train_s)
    metrics.round_finished(replace(round_report(0, {}), clients=(row,)))
    assert not record.series("train_seconds")


def test_weights_and_scores_are_labelled_by_client(metrics, record):
    metrics.round_finished(round_report(0, {"a": 0.25, "b": None}))
    assert {client: record["weight", client] for client in "ab"} == {"a": 0.25, "b": 0.0}
    assert {client: record["score", client] for client in "ab"} == {"a": 0.5, "b": 0.5}


def lasting(instruments, record, name):
    """Series of a gauge that go on."""
    record.values.clear()
    for gauge in instruments.lasting:
        gauge.repeat()
    return {client for (client,) in record.series(name)}


def test_the_weight_and_score_of_a_client_that_left_end(metrics, instruments, record):
    metrics.round_finished(round_report(0, {"a": 0.25, "b": 0.5, "c": 1.0}))
    metrics.members_changed(["a", "c"])
    assert lasting(instruments, record, "weight") == {"a", "c"}
    assert lasting(instruments, record, "score") == {"a", "c"}
    assert lasting(instruments, record, "clients") == set(STATES)
    metrics.round_finished(round_report(1, {"a": 0.25}))
    assert lasting(instruments, record, "weight") == {"a", "c"}  # c takes part and was not drawn


def test_a_score_ends_when_a_round_gives_none(metrics, instruments, record):
    metrics.round_finished(round_report(0, {"a": 0.25}))
    row = replace(client_round(1, "a", 0.0, admitted=False), last_step_probability=None)
    metrics.round_finished(replace(round_report(1, {}), clients=(row,)))
    assert lasting(instruments, record, "score") == set()
    assert lasting(instruments, record, "weight") == {"a"}


def test_a_resumed_run_goes_on_from_its_last_round(metrics, instruments, record):
    metrics.resumed(3, round_report(2, {"a": 0.25, "gone": 1.0}))
    metrics.members_changed(["a", "b"])
    assert record["round"] == 3
    assert lasting(instruments, record, "weight") == {"a"}
    assert not record.series("rounds_total")
    metrics.resumed(0, None)


def test_measures_are_labelled_by_name_where_there_are_any(metrics, record):
    metrics.evaluated(evaluation_report(1, 0.75))
    found = {name: record["measure", name] for (name,) in record.series("measure")}
    assert found == {"rule_score": 0.75, "over_refusal": 0.75, "utility": 0.75, "benign_loss": 1.5, "perplexity": exp(1.5)}
    metrics.evaluated(replace(evaluation_report(2, 0.5), over_refusal=None, utility=None, benign_loss=None))
    assert record["measure", "rule_score"] == 0.5
