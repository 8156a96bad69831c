"""MLflow: a run in the experiment MLFLOW_EXPERIMENT_NAME (default: safe-fedllm) of the store that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from cluster.tracking.figures import Figures
from cluster.tracking.tracker import TrackedRun

_EXPERIMENT = "safe-fedllm"
_RUN_ID = "safe_fedllm.run_id"
_MOST_PARAMETERS = 100
"""That MLflow takes in one request."""


class Mlflow:
    """A client of its own, so that no active run of the caller is touched. A resumed run goes on in the one that it began."""

    def __init__(self, run: TrackedRun) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        found = self._client.search_runs([experiment], f"tags.`{_RUN_ID}` = '{run.run_id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._client.create_run(experiment, run_name=run.name, tags={_RUN_ID: run.run_id}).info.run_id

    def set_parameters(self, values: Mapping[str, object]) -> None:
        """MLflow changes no parameter: those that a resumed run began with stay."""
        known = self._client.get_run(self._run).data.params
        new = [Param(key, str(value)) for key, value in values.items() if key not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=new[start : start + _MOST_PARAMETERS])

    def log(self, figures: Figures, rounds_done: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, rounds_done) for name, value in figures.items()])

    def keep_adapter(self, folder: Path) -> None:
        self._client.log_artifacts(self._run, str(folder), "adapter")

    def close(self, *, is_whole: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if is_whole else "FAILED")
