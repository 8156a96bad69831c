"""The Parquet tables: their columns, which other programs read, and their rows."""

from dataclasses import replace
from math import exp

import pytest

from actors.messages import Proportion
from cluster.state.tables import (
    EVALUATION,
    GROUND_TRUTH,
    PROBE,
    ROUNDS,
    evaluation_table,
    measures,
    probe_table,
    rounds_table,
)
from tests.unit.cluster.builders import evaluation_report, probe_row, round_report

COLUMNS = {
    "rounds": (
        ROUNDS,
        """round: int32, client_id: string, admitted: bool, reason: string, num_samples: int32, num_steps_scored: int32,
        malicious_ratio: double, last_step_probability: double, flagged: bool, weight: double, share: double,
        update_norm: double, loss: double, train_s: double, probe_version: int32, round_outcome: string,
        excluded_by: string, excluded_value: double, excluded_bound: double, excluded_because: string, num_bytes: int64,
        canary_rise: double, validation_cosine: double, validation_fall: double, task_rise: double, task_cosine: double,
        agreement: double, copies: double, flatness: double, trust_step: double, trust_client: double, trust_evidence: double,
        trust_utility: double, trust_consensus: double,
        max_norm: double, refusal_rise: double, preserved_rise: double, preservation_steps: int32, guard_sum: double""",
    ),
    "probe": (
        PROBE,
        """round: int32, version: int32, num_scores: int32, drift_distance: double, drift_critical: double, blind: bool,
        warning: string, refresh: string, refresh_why: string, refresh_auc: double,
        refresh_wait_s: double, fit_s: double, round_s: double, num_messages: int32, score_s: double, score_bytes: int64""",
    ),
    "evaluation": (
        EVALUATION,
        """rounds_done: int32, adapter_version: int32, measure: string, family: string, value: double, low: double,
        high: double, count: int32, outcomes: string""",
    ),
    "ground_truth": (GROUND_TRUTH, "client_id: string, malicious: bool"),
}


@pytest.mark.parametrize("table", COLUMNS)
def test_the_columns_of_the_files_do_not_change(table):
    schema, text = COLUMNS[table]
    assert [f"{field.name}: {field.type}" for field in schema] == [column.strip() for column in text.split(",")]
    assert all(field.nullable for field in schema)
    assert schema.metadata == {b"schema_version": b"1"}


def test_rounds_have_a_row_per_client_with_the_rounds_figures_in_each():
    guarded = replace(
        round_report(1, {"a": 1.0, "b": 0.5}, outcome="rolled_back"), refusal_rise=0.25, guard_sum=0.125, max_norm=2.0
    )
    table = rounds_table([round_report(0, {"a": 1.0, "b": None}), guarded])
    assert table.schema.equals(ROUNDS, check_metadata=True)
    assert table.select(["round", "client_id", "reason", "refusal_rise", "guard_sum", "max_norm", "agreement"]).to_pydict() == {
        "round": [0, 0, 1, 1],
        "client_id": ["a", "b", "a", "b"],
        "reason": [None, "late: no update", None, None],
        "refusal_rise": [None, None, 0.25, 0.25],
        "guard_sum": [None, None, 0.125, 0.125],
        "max_norm": [None, None, 2.0, 2.0],
        "agreement": [None] * 4,
    }


def test_a_probe_has_a_row_per_round():
    table = probe_table([probe_row(0, refresh="accepted", refresh_wait_s=2.0), probe_row(1, score_bytes=2**40)])
    assert table.schema.equals(PROBE, check_metadata=True)
    assert table["refresh"].to_pylist() == ["accepted", None]
    assert table["score_bytes"].to_pylist() == [0, 2**40]


def test_an_evaluation_has_a_row_per_measure_and_family_with_the_outcome_of_each_prompt():
    share = Proportion(value=0.5, low=0.1, high=0.9, count=2, outcomes="10")
    report = replace(evaluation_report(2, 0.9), rule_score=share, attack_success=share, utility_by_family={"a": share})
    table = evaluation_table([report])
    assert table.schema.equals(EVALUATION, check_metadata=True)
    assert table.select(["measure", "family", "value", "outcomes"]).to_pylist() == [
        {"measure": "rule_score", "family": None, "value": 0.5, "outcomes": "10"},
        {"measure": "attack_success", "family": None, "value": 0.5, "outcomes": "10"},
        {"measure": "over_refusal", "family": None, "value": 0.9, "outcomes": ""},
        {"measure": "utility", "family": "a", "value": 0.5, "outcomes": "10"},
        {"measure": "utility", "family": None, "value": 0.75, "outcomes": None},
        {"measure": "benign_loss", "family": None, "value": 1.5, "outcomes": None},
        {"measure": "perplexity", "family": None, "value": exp(1.5), "outcomes": None},
    ]


def test_only_what_was_measured_has_a_value():
    report = evaluation_report(0, 0.75)
    assert measures(report) == {
        "rule_score": 0.75,
        "over_refusal": 0.75,
        "utility": 0.75,
        "benign_loss": 1.5,
        "perplexity": exp(1.5),
    }
    assert measures(replace(report, over_refusal=None, utility=None, benign_loss=None)) == {"rule_score": 0.75}
