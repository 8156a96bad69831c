"""On a GPU: the same bits whatever the number of actors, and a server whose nodes have none. Skipped where torch sees no GPU."""

import json
import subprocess
import sys

import pytest
from ray.cluster_utils import Cluster

from tests.chaos import start_run
from tests.integration.conftest import MEASURED, SMALL

LABEL = "safe-fedllm/role=server"
SETTINGS = [
    *(setting for setting in SMALL if not setting.startswith(("cluster.", "defense."))),
    *MEASURED,
    "defense.level=live+canary+spectrum+consensus",
    "probe.refresh_every=0",
    "probe.threshold=0.6",
    "defense.canary.max_rise=0.5",
    "defense.spectrum.max_flatness=0.9",
    "defense.consensus.min_cosine=-0.1",
]


@pytest.fixture
def gpu(visible_gpus):
    """A GPU that torch sees; the test is skipped where there is none."""
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    if subprocess.run(asked, check=True, capture_output=True, text=True, timeout=100).stdout.strip() == "0":
        pytest.skip("no GPU that torch sees")


def run(folder, *overrides: str) -> dict:
    """The summary of a run in a process of its own."""
    log = folder.with_suffix(".log")
    driver = start_run([*SETTINGS, *overrides, "--output", str(folder)], log)
    try:
        assert driver.wait(120) == 0, log.read_text()
    finally:
        driver.kill()
    return json.loads((folder / "summary.json").read_text())


def test_the_number_of_actors_on_a_gpu_changes_no_bit(gpu, tmp_path):
    one = run(tmp_path / "one", "cluster.client_actors=1")
    three = run(tmp_path / "three", "cluster.client_actors=3", "cluster.gpus_per_client=0.25")
    assert one["rounds_aggregated"] == 2
    assert one["adapter_sha256"] == three["adapter_sha256"]
    assert (one["rule_score"], one["utility"]) == (three["rule_score"], three["utility"])


def test_a_server_whose_nodes_have_no_gpu_serves_clients_that_have_one(gpu, tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0, "labels": dict([LABEL.split("=")])})
    try:
        cluster.add_node(num_cpus=2, num_gpus=1)
        place = [f"cluster.address={cluster.address}", f"cluster.server_label={LABEL}", "cluster.client_actors=1"]
        summary = run(tmp_path / "two", *place)
    finally:
        cluster.shutdown()
    assert summary["rounds_aggregated"] == 2
    assert (summary["excluded_benign"], summary["excluded_malicious"]) == (0.0, 1.0)
