"""summary.json and the Parquet tables, from reports whose means can be worked out by hand."""

import hashlib

import pytest

from cluster.config import RunConfig
from cluster.summary import summarise
from cluster.tables import evaluation_table, rounds_table
from tests.unit.cluster.reports import evaluation_report, round_report

ROUNDS = [
    round_report(0, {"a": 1.0, "b": 0.5, "c": 0.2}),
    round_report(1, {"a": 0.6, "b": None, "c": 0.0}, outcome="skipped"),
    round_report(2, {"a": None, "b": None, "c": None}, outcome="no_quorum"),
]


def summary(malicious=frozenset({"c"})):
    evaluations = [evaluation_report(0, 0.9), evaluation_report(3, 0.4)]
    return summarise(RunConfig(), ROUNDS, evaluations, malicious, adapter=b"bytes", wall_s=1.234, peak_rss_mb=10.06)


def test_mean_weights_are_over_admitted_client_rounds_with_skipped_ones():
    assert summary()["mean_weight_benign"] == pytest.approx((1.0 + 0.5 + 0.6) / 3)
    assert summary()["mean_weight_malicious"] == pytest.approx((0.2 + 0.0) / 2)
    assert summary(malicious=frozenset())["mean_weight_malicious"] is None


def test_outcomes_are_counted():
    counts = [summary()[f"rounds_{outcome}"] for outcome in ("aggregated", "skipped", "no_quorum")]
    assert counts == [1, 1, 1]
    assert summary()["updates_refused"] == 4


def test_measures_are_the_last_ones_beside_the_base_models():
    assert summary()["rule_score"] == 0.4
    assert summary()["base"]["rule_score"] == 0.9
    assert summary()["compliance"] is None
    assert summary()["adapter_sha256"] == hashlib.sha256(b"bytes").hexdigest()


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
