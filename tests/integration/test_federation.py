"""Whole runs on a real local Ray: what they write, that they repeat to the bit, and what happens when clients fail."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from actors.world.store import base_folder, world_folder
from cluster import Federation, load_config
from cluster.reporting.callback import RunCallback
from tests.integration.conftest import MEASURED, SMALL


def test_a_run_leaves_a_complete_directory(small_run):
    names = {path.name for path in small_run.path.iterdir()}
    expected = {
        "config.yaml",
        "adapter",
        "rounds.parquet",
        "evaluation.parquet",
        "summary.json",
        "events.jsonl",
        "ground_truth.parquet",
    }
    assert expected <= names
    summary = json.loads((small_run.path / "summary.json").read_text())
    adapter = (small_run.path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert summary["adapter_sha256"] == hashlib.sha256(adapter).hexdigest()
    assert "Safety" in small_run.report().read_text()
    assert summary["adapter_sha256"] in (small_run.path / "adapter" / "README.md").read_text()
    assert small_run.rounds.num_rows == 2 * 4
    assert small_run.rounds.schema.metadata[b"schema_version"] == b"1"
    truth = pq.read_table(small_run.path / "ground_truth.parquet").to_pylist()
    assert sum(row["malicious"] for row in truth) == 1
    assert yaml.safe_load((small_run.path / "config.yaml").read_text())["training"]["steps"] == 3
    assert summary["peak_rss_mb"] > 100
    assert summary["wall_s"] > 0


def test_every_client_is_scored_and_the_shares_sum_to_1(small_run):
    rows = small_run.rounds.to_pylist()
    assert all(row["admitted"] and row["round_outcome"] == "aggregated" for row in rows)
    assert {row["num_steps_scored"] for row in rows} == {3}
    for round_index in (0, 1):
        assert sum(row["share"] for row in rows if row["round"] == round_index) == pytest.approx(1)


def test_the_adapter_loads_with_peft_and_changes_the_model(small_run):
    base = AutoModelForCausalLM.from_pretrained(base_folder(world_folder(0)))
    tokens = torch.arange(10, 30)[None]
    before = base(tokens).logits
    tuned = PeftModel.from_pretrained(base, small_run.path / "adapter").eval()
    assert not torch.allclose(before, tuned(tokens).logits)


def test_neither_a_second_actor_nor_a_guard_that_is_not_needed_changes_a_bit(small_run, run_small):
    two = run_small(*MEASURED, "cluster.client_actors=2", "defense.guard.enabled=true")
    assert json.loads((two.path / "summary.json").read_text()) == two.summary
    assert two.summary["adapter_sha256"] == small_run.summary["adapter_sha256"]
    assert two.summary["rounds_rolled_back"] == 0
    assert {row["guard_sum"] for row in two.rounds.to_pylist()} == {0.0}
    assert {row["refusal_rise"] for row in small_run.rounds.to_pylist()} == {None}
    columns = ["round", "client_id", "weight", "last_step_probability", "update_norm", "loss"]
    assert two.rounds.select(columns).equals(small_run.rounds.select(columns))
    assert two.evaluation.equals(small_run.evaluation)


def test_only_the_sampled_clients_of_a_round_take_part(run_small):
    rows = run_small("rounds=3", "clients.per_round=2", "defense.level=none").rounds.to_pylist()
    sampled = [tuple(row["client_id"] for row in rows if row["round"] == index) for index in range(3)]
    assert {len(clients) for clients in sampled} == {2}
    assert len(set(sampled)) > 1
    assert {row["num_steps_scored"] for row in rows} == {0}


def test_rounds_that_malicious_clients_dominate_are_skipped(local_ray, tmp_path):
    lines = []
    six = ["clients.count=6", "clients.malicious=5", "training.steps=8", "training.batch_size=16"]

    class Log(RunCallback):
        def round_finished(self, report):
            lines.append((report.outcome, report.why))

    summary = Federation(load_config(None, [*SMALL, *MEASURED, *six]), tmp_path / "run", Log()).run().summary
    assert summary["rounds_skipped"] == 2
    assert summary["rule_score"] == summary["base"]["rule_score"] >= 0.97
    assert all(outcome == "skipped" and "defense.skip_below=0.2" in why for outcome, why in lines)


def test_a_client_past_its_deadline_is_dropped(local_ray, tmp_path):
    overrides = ["rounds=1", "defense.level=none", "clients.timeout_s=0.2", "training.steps=300", "clients.count=1"]
    (row,) = Federation(load_config(None, [*SMALL, *overrides]), tmp_path / "run").run().rounds.to_pylist()
    assert (row["reason"], row["round_outcome"]) == ("late: no update within clients.timeout_s=0.2 s", "no_quorum")
