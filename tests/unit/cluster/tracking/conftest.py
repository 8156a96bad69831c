"""Libraries that keep to this machine and to the folder of the test."""

import pytest

from cluster.tracking.tracker import TrackedRun


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))


@pytest.fixture
def run(tmp_path) -> TrackedRun:
    """A new run whose directory holds an adapter."""
    (tmp_path / "mine" / "adapter").mkdir(parents=True)
    (tmp_path / "mine" / "adapter" / "adapter_config.json").write_text("{}")
    return TrackedRun(name="mine", run_id="0123abcd", path=tmp_path / "mine", rounds_done=None)
