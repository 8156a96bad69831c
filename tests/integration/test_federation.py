"""Whole runs on a real local Ray: what they write, that they repeat to the bit, and what happens when clients fail."""

import hashlib
import json

import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from actors.world.store import base_folder, world_folder
from cluster import Federation, load_config
from cluster.progress import Progress
from tests.integration.conftest import SMALL


def test_a_run_leaves_a_complete_directory(run_small):
    result = run_small()
    names = {path.name for path in result.path.iterdir()}
    expected = {
        "config.yaml",
        "adapter",
        "rounds.parquet",
        "evaluation.parquet",
        "summary.json",
        "run.png",
        "ground_truth.parquet",
    }
    assert expected <= names
    summary = json.loads((result.path / "summary.json").read_text())
    assert summary == result.summary
    adapter = (result.path / "adapter" / "adapter_model.safetensors").read_bytes()
    assert summary["adapter_sha256"] == hashlib.sha256(adapter).hexdigest()
    assert (result.path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert result.rounds.num_rows == 2 * 4
    assert result.rounds.schema.metadata[b"schema_version"] == b"1"
    truth = pq.read_table(result.path / "ground_truth.parquet").to_pylist()
    assert sum(row["malicious"] for row in truth) == 1
    assert yaml.safe_load((result.path / "config.yaml").read_text())["training"]["steps"] == 3
    assert summary["peak_rss_mb"] > 100
    assert summary["wall_s"] > 0


def test_the_adapter_loads_with_peft_and_changes_the_model(run_small):
    result = run_small()
    base = AutoModelForCausalLM.from_pretrained(base_folder(world_folder(0)))
    tokens = torch.arange(10, 30)[None]
    before = base(tokens).logits
    tuned = PeftModel.from_pretrained(base, result.path / "adapter").eval()
    assert not torch.allclose(before, tuned(tokens).logits)


def test_the_same_seed_gives_the_same_bits_with_one_actor_and_with_two(run_small):
    one, two = run_small("cluster.client_actors=1"), run_small("cluster.client_actors=2")
    assert one.summary["adapter_sha256"] == two.summary["adapter_sha256"]
    columns = ["round", "client_id", "weight", "last_step_probability", "update_norm", "loss"]
    assert one.rounds.select(columns).equals(two.rounds.select(columns))


def test_another_seed_gives_another_adapter(run_small):
    assert run_small("rounds=1").summary["adapter_sha256"] != run_small("rounds=1", "seed=1").summary["adapter_sha256"]


@pytest.mark.parametrize("level", ["none", "step", "client", "shadow"])
def test_every_level_runs_and_scores_what_it_reads(run_small, level):
    rows = run_small(f"defense.level={level}", "rounds=1").rounds.to_pylist()
    assert all(row["admitted"] and row["round_outcome"] == "aggregated" for row in rows)
    assert {row["num_steps_scored"] for row in rows} == {0 if level == "none" else 3}
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_sampled_clients_differ_by_round_and_repeat_by_seed(run_small):
    runs = [run_small("rounds=4", "clients.per_round=2", "defense.level=none") for _ in range(2)]
    sampled = [[row["client_id"] for row in run.rounds.to_pylist()] for run in runs]
    assert sampled[0] == sampled[1]
    assert len(sampled[0]) == 4 * 2
    assert len({tuple(sampled[0][i : i + 2]) for i in range(0, 8, 2)}) > 1


def test_rounds_that_malicious_clients_dominate_are_skipped(local_ray, tmp_path):
    lines = []
    config = load_config(None, ["clients.malicious=9", "rounds=2", "evaluation.max_restricted=300", "evaluation.max_benign=100"])

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


def test_too_few_updates_make_no_quorum_and_change_nothing(local_ray, tmp_path):
    config = load_config(None, [*SMALL, "rounds=1", "defense.level=none", "clients.min_updates=4"])
    federation = Federation(config, tmp_path / "run")
    (tmp_path / "run" / "data" / "client-002.parquet").write_bytes(b"not parquet")
    result = federation.run()
    assert result.summary["rounds_no_quorum"] == 1
    assert result.summary["rule_score"] == result.summary["base"]["rule_score"]
    assert result.summary["mean_weight_benign"] is not None


def client_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "ray::Client" in " ".join(p.cmdline())]


def test_a_killed_client_actor_costs_its_client_the_round_and_no_more(local_ray, tmp_path):
    overrides = ["rounds=2", "defense.level=none", "cluster.client_actors=1", "clients.min_updates=1", "training.steps=20"]

    class KillOnce(Progress):
        killed = False

        def client_done(self, client_id):
            if not self.killed:
                (process,) = client_processes()
                process.kill()
                self.killed = True

    result = Federation(load_config(None, [*SMALL, *overrides]), tmp_path / "run", KillOnce()).run()
    rows = result.rounds.to_pylist()
    lost = [row for row in rows if not row["admitted"]]
    assert 1 <= len(lost) <= 3
    assert all(row["round"] == 0 and "client_lost" in row["reason"] for row in lost)


def test_a_client_past_its_deadline_is_dropped_and_its_actor_replaced(local_ray, tmp_path):
    overrides = ["rounds=1", "defense.level=none", "clients.timeout_s=0.2", "training.steps=300", "clients.count=2"]
    rows = Federation(load_config(None, [*SMALL, *overrides]), tmp_path / "run").run().rounds.to_pylist()
    assert [row["reason"] for row in rows] == ["late: no update within clients.timeout_s=0.2 s"] * 2
    assert {row["round_outcome"] for row in rows} == {"no_quorum"}
