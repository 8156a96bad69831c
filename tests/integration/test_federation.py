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
from cluster.reporting.progress import Progress
from tests.integration.conftest import MEASURED, SMALL


def test_a_run_leaves_a_complete_directory(small_run):
    names = {path.name for path in small_run.path.iterdir()}
    expected = {
        "config.yaml",
        "adapter",
        "rounds.parquet",
        "evaluation.parquet",
        "summary.json",
        "run.png",
        "events.jsonl",
        "ground_truth.parquet",
    }
    assert expected <= names
    summary = json.loads((small_run.path / "summary.json").read_text())
    assert summary == small_run.summary
    adapter = (small_run.path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert summary["adapter_sha256"] == hashlib.sha256(adapter).hexdigest()
    assert (small_run.path / "run.png").read_bytes().startswith(b"\x89PNG")
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


def test_the_same_seed_gives_the_same_bits_with_one_actor_and_with_two(small_run, run_small):
    two = run_small(*MEASURED, "cluster.client_actors=2")
    assert two.summary["adapter_sha256"] == small_run.summary["adapter_sha256"]
    columns = ["round", "client_id", "weight", "last_step_probability", "update_norm", "loss"]
    assert two.rounds.select(columns).equals(small_run.rounds.select(columns))
    assert two.evaluation.equals(small_run.evaluation)


def test_the_levels_that_read_the_real_branch_score_every_step_of_it(run_small):
    rows = run_small("defense.level=step+client", "rounds=1").rounds.to_pylist()
    assert all(row["admitted"] and 0 < row["weight"] < 1 for row in rows)
    assert {row["num_steps_scored"] for row in rows} == {3}


def test_only_the_sampled_clients_of_a_round_take_part(run_small):
    rows = run_small("rounds=3", "clients.per_round=2", "defense.level=none").rounds.to_pylist()
    sampled = [tuple(row["client_id"] for row in rows if row["round"] == index) for index in range(3)]
    assert {len(clients) for clients in sampled} == {2}
    assert len(set(sampled)) > 1
    assert {row["num_steps_scored"] for row in rows} == {0}


def test_rounds_that_malicious_clients_dominate_are_skipped(local_ray, tmp_path):
    lines = []
    few = ["evaluation.max_restricted=300", "evaluation.max_benign=60", "probe.refresh_every=0"]
    config = load_config(None, ["clients.malicious=9", "rounds=2", *few])

    class Log(Progress):
        def round_finished(self, report):
            lines.append((report.outcome, report.why))

    summary = Federation(config, tmp_path / "run", Log()).run().summary
    assert summary["rounds_skipped"] == 2
    assert summary["rule_score"] == summary["base"]["rule_score"] >= 0.97
    assert all(outcome == "skipped" and "defense.skip_below=0.2" in why for outcome, why in lines)


def test_a_client_whose_data_cannot_be_used_is_dropped_with_its_reason(local_ray, tmp_path):
    config = load_config(None, [*SMALL, "rounds=1", "defense.level=none"])
    federation = Federation(config, tmp_path / "run")
    (tmp_path / "run" / "data" / "client-002.parquet").write_bytes(b"not parquet")
    rows = {row["client_id"]: row for row in federation.run().rounds.to_pylist()}
    assert "client_failed: DataError" in rows["client-002"]["reason"]
    assert "client-002.parquet" in rows["client-002"]["reason"]
    assert not rows["client-002"]["admitted"]
    assert rows["client-001"]["admitted"]
    assert rows["client-001"]["round_outcome"] == "aggregated"


def test_a_client_past_its_deadline_is_dropped_and_its_actor_replaced(local_ray, tmp_path):
    overrides = ["rounds=1", "defense.level=none", "clients.timeout_s=0.2", "training.steps=300", "clients.count=2"]
    rows = Federation(load_config(None, [*SMALL, *overrides]), tmp_path / "run").run().rounds.to_pylist()
    assert [row["reason"] for row in rows] == ["late: no update within clients.timeout_s=0.2 s"] * 2
    assert {row["round_outcome"] for row in rows} == {"no_quorum"}
