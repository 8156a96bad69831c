"""Runs that end by themselves: safety falls under evaluation.stop_below, or an evaluation cannot be done."""

import json

import pytest
from typer.testing import CliRunner

from cluster import Federation, load_config
from cluster.cli import app
from cluster.comparison.cell_directory import find_stage
from cluster.errors import ClusterError
from cluster.reporting.callback import RunCallback
from cluster.state.checkpoints import Checkpoints
from tests.integration.conftest import SMALL

FALLING = [
    *SMALL,
    "rounds=4",
    "clients.malicious=3",
    "defense.level=none",
    "training.steps=10",
    "evaluation.every=2",
    "evaluation.max_restricted=60",
    "evaluation.stop_below=0.9",
    "realignment.steps=2",
    "checkpoint.keep=5",
]


class WhatIsKept(RunCallback):
    """Looks at the run's directory in each round."""

    def __init__(self, path) -> None:
        self._path, self.checkpoints, self.had_summary = path, [], False

    def round_started(self, round_index, client_ids):
        self.checkpoints.append(Checkpoints(str(self._path / "checkpoints"), keep=5).complete())
        self.had_summary |= (self._path / "summary.json").exists()


def test_a_run_whose_safety_falls_ends_says_so_and_falls_again_where_it_goes_back(local_ray, tmp_path):
    run = tmp_path / "run"
    done = CliRunner().invoke(app, ["run", *FALLING, "--output", str(run)])
    summary = json.loads((run / "summary.json").read_text())
    assert (done.exit_code, summary["rounds_done"], summary["stopped_below"], summary["before_realignment"]) == (1, 2, 0.9, None)
    assert summary["rule_score"] < 0.9 <= summary["base"]["rule_score"]
    assert "is under evaluation.stop_below=0.9 after 2 rounds; go back to a state before with: " in done.output
    assert f"safe-fedllm run --resume {run} --from-round r" in done.output
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["round"] for event in events if event["event"] == "safety_fell"] == [1]
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert find_stage(run, load_config(None, FALLING)) == "finished"

    kept = WhatIsKept(run)
    again = Federation.resume(run, kept, from_round=1).run().summary
    assert (kept.checkpoints, kept.had_summary) == ([[1]], False)
    assert (again["rounds_done"], again["adapter_sha256"]) == (2, summary["adapter_sha256"])


def test_a_base_model_under_the_bound_trains_nobody(local_ray, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"instruction": "hello"}\n')
    arguments = [*FALLING, f"evaluation.restricted_path={prompts}", 'evaluation.refusals=["never said"]']
    done = CliRunner().invoke(app, ["run", *arguments, "--output", str(tmp_path / "run")])
    assert done.exit_code == 1, done.output
    assert "stopped: safety 0.000 is under evaluation.stop_below=0.9 after 0 rounds; lower the bound in " in done.output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds_done"] == 0


def test_an_evaluation_that_cannot_be_done_costs_no_round_and_no_adapter(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.workers.evaluations._ATTEMPTS", 2)  # each starts an actor
    prompts, run = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text('{"instruction": "hello"}\n')
    keys = ["defense.level=none", "rounds=1", "evaluation.max_restricted=1", f"evaluation.restricted_path={prompts}"]
    federation = Federation(load_config(None, [*SMALL, *keys]), run)
    prompts.write_text('{"instruction": "hello", "answer_pattern": "("}\n')  # changed since it was checked
    with pytest.raises(
        ClusterError, match=r"failed 2 times in a row, last: DataError: .*answer_pattern.*; remove .* --resume .*/run$"
    ):
        federation.run()
    assert Checkpoints(str(run / "checkpoints"), keep=2).complete() == [1]
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert not (run / "summary.json").exists()

    prompts.write_text('{"instruction": "hello"}\n')
    result = Federation.resume(run).run()
    assert [row["rounds_done"] for row in result.evaluation.to_pylist() if row["measure"] == "rule_score"] == [0, 1]
