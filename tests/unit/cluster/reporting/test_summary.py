"""summary.json and the Parquet tables, from reports whose means can be worked out by hand."""

import hashlib
from dataclasses import replace

import pytest

from actors.config import EvaluationConfig
from actors.messages import Proportion
from cluster.config.schema import ClientsConfig, RunConfig
from cluster.reporting.summary import summarise
from cluster.state.tables import evaluation_table, probe_table, rounds_table
from tests.unit.cluster.reports import evaluation_report, probe_row, round_report

ROUNDS = [
    round_report(0, {"a": 1.0, "b": 0.5, "c": 0.2}),
    round_report(1, {"a": 0.6, "b": None, "c": 0.0}, outcome="skipped"),
    round_report(2, {"a": None, "b": None, "c": None}, outcome="no_quorum"),
]


PROBE = [
    probe_row(0, version=2, refresh="accepted", refresh_wait_s=2.0, round_s=5.0),
    probe_row(1, version=2, refresh="rejected", refresh_wait_s=1.0, round_s=4.0),
    probe_row(2, version=2, blind=True, round_s=3.0),
]


def summary(malicious=frozenset({"c"}), probe=PROBE, config=RunConfig()):  # noqa: B008 - it never changes
    evaluations = [evaluation_report(0, 0.9), evaluation_report(3, 0.4)]
    return summarise(config, ROUNDS, probe, evaluations, malicious, adapter=b"bytes", changes=(), wall_s=1.234, peak_rss_mb=10.06)


def test_verdicts_are_counted_against_the_truth_overall_and_by_round():
    # Flagged (weight below 1/2): c in rounds 0 and 1, the only malicious one; of a and b none of three verdicts.
    assert (summary()["tpr"], summary()["fpr"]) == (1.0, 0.0)
    # With b as the attacker: its one verdict was benign, and two of c's and two of a's four are flagged.
    other = summary(malicious=frozenset({"b"}))
    assert (other["tpr"], other["fpr"]) == (0.0, 0.5)
    assert other["verdicts_by_round"] == [
        {"round": 0, "tpr": 0.0, "fpr": 0.5},
        {"round": 1, "tpr": None, "fpr": 0.5},
        {"round": 2, "tpr": None, "fpr": None},
    ]


def test_refreshes_are_counted_with_their_share_of_the_time():
    figures = summary()
    assert (figures["probe_version"], figures["probe_refreshes"], figures["probe_refreshes_rejected"]) == (2, 1, 1)
    assert figures["probe_refresh_share"] == pytest.approx(3 / 12)
    assert figures["rounds_blind"] == 1
    without = summary(probe=[])
    assert (without["probe_version"], without["probe_refresh_share"]) == (None, None)


def test_probe_table_has_a_row_per_round():
    table = probe_table(PROBE)
    assert table.num_rows == 3
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert table.column("refresh").to_pylist() == ["accepted", "rejected", None]


def test_mean_weights_are_over_admitted_client_rounds_with_skipped_ones():
    assert summary()["mean_weight_benign"] == pytest.approx((1.0 + 0.5 + 0.6) / 3)
    assert summary()["mean_weight_malicious"] == pytest.approx((0.2 + 0.0) / 2)
    assert summary(malicious=frozenset())["mean_weight_malicious"] is None


def test_who_counts_for_nothing_is_put_out_whether_refused_or_of_weight_zero():
    # a and b: refused three times of six, never 0. c: 0 in round 1, refused in round 2.
    assert (summary()["put_out_benign"], summary()["put_out_malicious"]) == (3 / 6, pytest.approx(2 / 3))
    assert summary(malicious=frozenset())["put_out_malicious"] is None


def test_outcomes_are_counted():
    counts = [summary()[f"rounds_{outcome}"] for outcome in ("aggregated", "skipped", "no_quorum")]
    assert counts == [1, 1, 1]
    assert summary()["updates_refused"] == 4


def test_measures_are_the_last_ones_beside_the_base_models():
    assert summary()["rule_score"] == 0.4
    assert summary()["base"]["rule_score"] == 0.9
    assert summary()["compliance"] is None
    assert summary()["adapter_sha256"] == hashlib.sha256(b"bytes").hexdigest()


def test_the_attack_is_named_where_there_are_attackers_and_its_success_where_it_was_measured():
    assert (summary()["attack"], summary()["attack_success"]) == (None, None)
    config = RunConfig(clients=ClientsConfig(malicious=2, attack="backdoor"))
    share = evaluation_report(0, 0.9).rule_score
    triggered = replace(evaluation_report(3, 0.4), attack_success=share)
    made = summarise(config, ROUNDS, [], [triggered, triggered], (), adapter=b"", changes=(), wall_s=1.0, peak_rss_mb=1.0)
    assert (made["attack"], made["attack_success"], made["intervals"]["attack_success"]["count"]) == ("backdoor", 0.9, 100)
    assert "attack_success" in evaluation_table([triggered]).column("measure").to_pylist()


def test_rounds_that_were_rolled_back_are_counted_and_their_figures_in_every_row():
    back = replace(round_report(3, {"a": 1.0, "b": 0.5}, outcome="rolled_back"), canary_loss=0.25, guard_sum=0.125)
    made = summarise(
        RunConfig(), [*ROUNDS, back], [], [evaluation_report(4, 0.4)], (), adapter=b"", changes=(), wall_s=1.0, peak_rss_mb=1.0
    )
    assert (made["rounds_rolled_back"], made["rounds_aggregated"], made["rounds_done"]) == (1, 1, 4)
    rows = rounds_table([*ROUNDS, back]).to_pylist()
    assert [(row["canary_loss"], row["guard_sum"]) for row in rows] == [(None, None)] * 9 + [(0.25, 0.125)] * 2


def test_rounds_table_has_a_row_per_client_per_round():
    table = rounds_table(ROUNDS)
    assert table.num_rows == 9
    assert table.schema.metadata[b"schema_version"] == b"1"
    assert table.column("reason").to_pylist().count("late") == 4


def test_evaluation_table_has_a_row_per_measure_and_family():
    rows = evaluation_table([evaluation_report(2, 0.9)]).to_pylist()
    assert [(row["measure"], row["family"]) for row in rows] == [
        ("rule_score", None),
        ("over_refusal", None),
        ("utility", "a"),
        ("utility", None),
        ("benign_loss", None),
    ]


def test_a_realigned_run_has_the_measures_of_both_adapters():
    evaluations = [evaluation_report(0, 0.9), evaluation_report(3, 0.4), evaluation_report(4, 0.8)]
    figures = {"adapter": b"", "changes": (), "wall_s": 1.0, "peak_rss_mb": 1.0}
    made = summarise(RunConfig(), ROUNDS, [], evaluations, (), realigned_s=2.5, **figures)
    assert (made["rule_score"], made["before_realignment"]["rule_score"], made["base"]["rule_score"]) == (0.8, 0.4, 0.9)
    assert made["server_seconds"]["realigning"] == made["server_s"] == 2.5
    assert summary()["before_realignment"] is None


def test_server_seconds_are_summed_by_part():
    seconds = {"submit_s": 0.5, "aggregate_s": 0.25, "canary_s": 0.125, "validation_s": 0.125}
    reports = [replace(report, **seconds) for report in ROUNDS]
    probe = [probe_row(0, score_s=0.5, refresh_wait_s=2.0, fit_s=1.0), probe_row(1, score_s=0.25)]
    figures = {"adapter": b"", "changes": (), "wall_s": 1.0, "peak_rss_mb": 1.0}
    made = summarise(RunConfig(), reports, probe, [evaluation_report(0, 0.9)], (), **figures)
    parts = {"scoring": 0.75, "refreshing": 2.0, "canary": 0.375, "validation": 0.375, "aggregating": 2.25, "realigning": 0.0}
    assert made["server_seconds"] == parts  # the fit is part of the wait
    assert made["server_s"] == sum(parts.values())


def test_what_came_of_each_prompt_is_in_the_table_and_not_in_the_summary():
    share = Proportion(value=0.5, low=0.1, high=0.9, count=2, outcomes="10")
    report = replace(evaluation_report(2, 0.9), rule_score=share, utility_by_family={"a": share})
    rows = {(row["measure"], row["family"]): row["outcomes"] for row in evaluation_table([report]).to_pylist()}
    assert rows["rule_score", None] == rows["utility", "a"] == "10"
    assert rows["utility", None] is None
    figures = {"adapter": b"", "changes": (), "wall_s": 1.0, "peak_rss_mb": 1.0}
    made = summarise(RunConfig(), ROUNDS, [], [report], (), **figures)
    assert made["intervals"]["rule_score"] == {"value": 0.5, "low": 0.1, "high": 0.9, "count": 2}


@pytest.mark.parametrize(("bound", "said"), [(None, None), (0.4, None), (0.5, 0.5)])
def test_the_bound_is_there_when_safety_fell_under_it(bound, said):
    config = RunConfig(rounds=3, evaluation=EvaluationConfig(stop_below=bound))  # measured in round 3: 0.4
    assert summary(config=config)["stopped_below"] == said
