"""summary.json, from reports whose means can be worked out by hand."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from actors.config import EvaluationConfig
from actors.messages import AggregatorState, Proportion
from cluster.config.schema import ClientsConfig, RunConfig
from cluster.reporting.summary import summarise
from cluster.state.membership import Membership
from cluster.state.run_state import Realigned, RunState
from defense.config import DefenseConfig
from tests.unit.cluster.builders import evaluation_report, probe_row, round_report

ROUNDS = (
    round_report(0, {"a": 1.0, "b": 0.5, "c": 0.2}),
    round_report(1, {"a": 0.6, "b": None, "c": 0.0}, outcome="skipped"),
    round_report(2, {"a": None, "b": None, "c": None}, outcome="no_quorum"),
)
PROBE = (
    probe_row(0, version=2, refresh="accepted", refresh_wait_s=2.0, round_s=5.0),
    probe_row(1, version=2, refresh="rejected", refresh_wait_s=1.0, round_s=4.0),
    probe_row(2, version=2, blind=True, round_s=3.0),
)
EVALUATIONS = (evaluation_report(0, 0.9), evaluation_report(3, 0.4))


STATE = RunState(
    config=RunConfig(),
    aggregator=AggregatorState(adapter=b"bytes", version=1, trust={}, defense=DefenseConfig()),
    membership=Membership(known={}, active=()),
    rounds=ROUNDS,
    probe_rounds=PROBE,
    evaluations=EVALUATIONS,
    elapsed_s=1.234,
)


def summary(*, malicious=frozenset({"c"}), config=None, **changes) -> dict[str, Any]:
    """`changes`: fields of the state that differ."""
    return summarise(config or RunConfig(), replace(STATE, **changes), malicious, peak_rss_mb=10.06)


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
    assert (figures["probe_version"], figures["probe_refreshes"], figures["probe_refits"]) == (2, 2, 1)
    assert figures["probe_refreshes_rejected"] == 1
    assert figures["probe_refresh_share"] == pytest.approx(3 / 12)
    assert figures["rounds_blind"] == 1
    without = summary(probe_rounds=())
    assert (without["probe_version"], without["probe_refresh_share"]) == (None, None)


def test_mean_weights_are_over_admitted_client_rounds_with_skipped_ones():
    assert summary()["mean_weight_benign"] == pytest.approx((1.0 + 0.5 + 0.6) / 3)
    assert summary()["mean_weight_malicious"] == pytest.approx((0.2 + 0.0) / 2)
    assert summary(malicious=())["mean_weight_malicious"] is None


def test_a_client_is_excluded_when_it_is_refused_or_of_weight_zero():
    # a and b: refused three times of six, never 0. c: 0 in round 1, refused in round 2.
    assert (summary()["excluded_benign"], summary()["excluded_malicious"]) == (3 / 6, pytest.approx(2 / 3))
    assert summary(malicious=())["excluded_malicious"] is None


def test_outcomes_are_counted():
    made = summary(rounds=(*ROUNDS, round_report(3, {"a": 1.0}, outcome="rolled_back")))
    assert [made[f"rounds_{name}"] for name in ("done", "aggregated", "skipped", "no_quorum", "rolled_back")] == [4, 1, 1, 1, 1]
    assert made["updates_refused"] == 4


def test_measures_are_the_last_ones_beside_the_base_models():
    made = summary()
    assert (made["rule_score"], made["base"]["rule_score"], made["compliance"]) == (0.4, 0.9, None)
    assert made["adapter_sha256"] == hashlib.sha256(b"bytes").hexdigest()
    assert made["before_realignment"] is None


def test_a_realigned_run_has_the_measures_of_both_adapters():
    realigned = Realigned(adapter=b"repaired", seconds=2.5)
    made = summary(evaluations=(*EVALUATIONS, evaluation_report(4, 0.8)), probe_rounds=(), realigned=realigned)
    assert (made["rule_score"], made["before_realignment"]["rule_score"], made["base"]["rule_score"]) == (0.8, 0.4, 0.9)
    assert made["server_seconds"]["realigning"] == made["server_s"] == 2.5
    assert made["adapter_sha256"] == hashlib.sha256(b"repaired").hexdigest()


def test_the_attack_is_named_where_there_are_attackers_and_its_success_where_it_was_measured():
    assert (summary()["attack"], summary()["attack_success"]) == (None, None)
    triggered = replace(EVALUATIONS[1], attack_success=EVALUATIONS[0].rule_score)
    config = RunConfig(clients=ClientsConfig(malicious=2, attack="backdoor"))
    made = summary(config=config, evaluations=(triggered,))
    assert (made["attack"], made["attack_success"], made["intervals"]["attack_success"]["count"]) == ("backdoor", 0.9, 100)


def test_intervals_come_without_the_outcome_of_each_prompt():
    share = Proportion(value=0.5, low=0.1, high=0.9, count=2, outcomes="10")
    made = summary(evaluations=(replace(EVALUATIONS[0], rule_score=share),))
    assert made["intervals"]["rule_score"] == {"value": 0.5, "low": 0.1, "high": 0.9, "count": 2}


def test_server_seconds_are_summed_by_part():
    seconds = {"admit_s": 0.5, "aggregate_s": 0.25, "measuring_s": {"canary": 0.125, "validation": 0.125, "preservation": 0.25}}
    probe = (probe_row(0, score_s=0.5, refresh_wait_s=2.0, fit_s=1.0), probe_row(1, score_s=0.25))
    made = summary(rounds=tuple(replace(report, **seconds) for report in ROUNDS), probe_rounds=probe)
    parts = {
        "scoring": 0.75,
        "refreshing": 2.0,
        "canary": 0.375,
        "validation": 0.375,
        "preservation": 0.75,
        "aggregating": 2.25,
        "realigning": 0.0,
    }
    assert made["server_seconds"] == parts  # the fit is part of the wait
    assert made["server_s"] == sum(parts.values())


@pytest.mark.parametrize(("bound", "expected"), [(None, None), (0.4, None), (0.5, 0.5)])
def test_the_bound_is_there_when_safety_fell_under_it(bound, expected):
    config = RunConfig(rounds=3, evaluation=EvaluationConfig(stop_below=bound))  # measured in round 3: 0.4
    assert summary(config=config)["stopped_below"] == expected
