"""A run that tells all three trackers, in their offline modes, ends with the same bits as one that tells none."""

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'safe-fedllm[tensorboard]'")
pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'safe-fedllm[mlflow]'")
pytest.importorskip("wandb", reason="wandb is not installed: pip install 'safe-fedllm[wandb]'")
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.integration.conftest import MEASURED


def test_all_trackers_hear_of_every_round_and_keep_the_adapter_and_no_bit_changes(small_run, run_small, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))
    result = run_small(*MEASURED, "tracking=[tensorboard,mlflow,wandb]")
    assert result.summary["adapter_sha256"] == small_run.summary["adapter_sha256"]

    board = EventAccumulator(str(result.path / "tensorboard"))
    board.Reload()
    safety = [(event.step, pytest.approx(event.value)) for event in board.Scalars("evaluation/rule_score")]
    rows = [row for row in result.evaluation.to_pylist() if row["measure"] == "rule_score"]
    assert safety == [(row["rounds_done"], row["value"]) for row in rows]
    assert [event.step for event in board.Scalars("round/admitted")] == [1, 2]

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("safe-fedllm").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["training.steps"]) == (result.path.name, "FINISHED", "3")
    kept = client.download_artifacts(run.info.run_id, "adapter/adapter_model.safetensors", str(tmp_path))
    assert hashlib.sha256(Path(kept).read_bytes()).hexdigest() == result.summary["adapter_sha256"]

    assert len(list((result.path / "wandb").glob("offline-run-*/*.wandb"))) == 1
