"""What MLflow's own client finds in a store of files."""

import pytest

pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'safe-fedllm[mlflow]'")
from mlflow import MlflowClient

from cluster.config.loading import flat_values, load_config
from cluster.tracking.mlflow import Mlflow
from tests.unit.cluster.tracking.runs import listen


def runs(name: str = "safe-fedllm"):
    client = MlflowClient()
    return client, client.search_runs([client.get_experiment_by_name(name).experiment_id])


def test_parameters_figures_by_rounds_done_and_the_adapter(run):
    listen(Mlflow(run), run)
    client, (found,) = runs()
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert found.data.params["checkpoint.path"] == "s3://bucket"
    assert set(found.data.params) == set(flat_values(load_config(None, [])))
    assert [(p.step, p.value) for p in client.get_metric_history(found.info.run_id, "evaluation/rule_score")] == [
        (0, 0.9),
        (2, 0.8),
    ]
    assert [(p.step, p.value) for p in client.get_metric_history(found.info.run_id, "round/clients")] == [(1, 2), (2, 1)]
    assert [item.path for item in client.list_artifacts(found.info.run_id, "adapter")] == ["adapter/adapter_config.json"]


def test_a_run_that_broke_off_has_failed_and_goes_on_in_the_same_place(run):
    listen(Mlflow(run), run, to_the_end=False)
    client, (broken,) = runs()
    assert broken.info.status == "FAILED"
    resumed = Mlflow(run)
    assert client.get_run(broken.info.run_id).info.status == "RUNNING"
    resumed.set_parameters({"rounds": 99, "new": "yes"})
    resumed.close(is_whole=True)
    _, (found,) = runs()
    assert (found.info.run_id, found.info.status) == (broken.info.run_id, "FINISHED")
    assert (found.data.params["rounds"], found.data.params["new"]) == ("2", "yes")


def test_the_environment_names_the_experiment(run, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    Mlflow(run).close(is_whole=True)
    assert [found.info.run_name for found in runs("ours")[1]] == ["mine"]
