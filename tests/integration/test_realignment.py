"""Baselines of a comparison in real runs: the server repairs the final adapter, and attackers that never take part."""

import json

import pyarrow.parquet as pq

from cluster import Federation
from tests.integration.conftest import MEASURED, forget_round

SETTINGS = ("rounds=1", "defense.level=none", "clients.malicious=1")


def test_the_realigned_adapter_is_the_runs_and_both_are_measured(finished_run, run_small):
    result, plain = run_small(*SETTINGS, *MEASURED, "realignment.steps=4"), finished_run(*SETTINGS, *MEASURED)
    measured = {row["rounds_done"] for row in result.evaluation.to_pylist()}
    assert measured == {0, 1, 2}
    assert result.summary["adapter_sha256"] != plain.summary["adapter_sha256"]
    before = [row["value"] for row in result.evaluation.to_pylist() if row["rounds_done"] == 1]
    assert before == [row["value"] for row in plain.evaluation.to_pylist() if row["rounds_done"] == 1]


def test_a_run_resumed_in_the_last_round_or_after_it_ends_in_the_same_realigned_bits(run_small):
    result = run_small(*MEASURED, "rounds=2", "defense.level=none", "realignment.steps=2")
    path, adapter, measured = result.path, result.summary["adapter_sha256"], result.evaluation.to_pylist()
    (path / "summary.json").unlink()  # as if killed while it ended
    assert Federation.resume(path).run().summary["adapter_sha256"] == adapter
    assert result.evaluation.to_pylist() == measured

    forget_round(path, 2)
    assert Federation.resume(path).run().summary["adapter_sha256"] == adapter
    assert result.evaluation.to_pylist() == measured
    events = [json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines()]
    assert events.count("realigned") == 2  # it is not done again where a checkpoint has it


def test_excluded_attackers_never_take_part_and_the_others_are_as_they_were(finished_run, run_small):
    result = run_small(*SETTINGS, "clients.exclude_malicious=true")
    truth = pq.read_table(result.path / "ground_truth.parquet").to_pylist()
    honest = {row["client_id"] for row in truth if not row["malicious"]}
    rows = result.rounds.to_pylist()
    assert {row["client_id"] for row in rows} == honest
    losses = {row["client_id"]: row["loss"] for row in finished_run(*SETTINGS, *MEASURED).rounds.to_pylist()}
    assert all(row["loss"] == losses[row["client_id"]] for row in rows)
