"""Baselines of a comparison in real runs: the server repairs the final adapter, and attackers that never take part."""

import json

import pyarrow.parquet as pq

from cluster import Federation
from tests.integration.conftest import MEASURED, forget_round

PLAIN = ("defense.level=none", *MEASURED)


def test_the_realigned_adapter_is_the_runs_also_when_resumed_in_the_last_round_or_after_it(finished_run, run_small):
    result, plain = run_small(*PLAIN, "realignment.steps=2"), finished_run(*PLAIN)
    path, adapter, measured = result.path, result.summary["adapter_sha256"], result.evaluation.to_pylist()
    assert {row["rounds_done"] for row in measured} == {row["rounds_done"] for row in plain.evaluation.to_pylist()} | {3}
    assert adapter != plain.summary["adapter_sha256"]
    values = [[row["value"] for row in rows if row["rounds_done"] == 2] for rows in (measured, plain.evaluation.to_pylist())]
    assert values[0] == values[1]

    (path / "summary.json").unlink()  # as if killed while it ended
    assert Federation.resume(path).run().summary["adapter_sha256"] == adapter
    assert result.evaluation.to_pylist() == measured

    forget_round(path, 2)
    assert Federation.resume(path).run().summary["adapter_sha256"] == adapter
    assert result.evaluation.to_pylist() == measured
    events = [json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines()]
    assert events.count("realigned") == 2  # it is not done again where a checkpoint has it


def test_excluded_attackers_never_take_part_and_the_others_are_as_they_were(finished_run, run_small):
    result = run_small("defense.level=none", "clients.exclude_malicious=true")
    truth = pq.read_table(result.path / "ground_truth.parquet").to_pylist()
    rows = result.rounds.to_pylist()
    assert {row["client_id"] for row in rows} == {row["client_id"] for row in truth if not row["malicious"]}
    losses = {row["client_id"]: row["loss"] for row in finished_run(*PLAIN).rounds.to_pylist() if row["round"] == 0}
    assert all(row["loss"] == losses[row["client_id"]] for row in rows if row["round"] == 0)
