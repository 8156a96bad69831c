"""Level live on a real local Ray: the probe follows the global adapter, and a refresh that fails leaves it as it was."""

import pyarrow.parquet as pq
import pytest

from cluster import Federation, load_config
from probe.artefact import load_probe
from tests.integration.conftest import MEASURED, SMALL

LIVE = ("defense.level=live", "probe.refresh_clients=3")
EVERY = (*LIVE, "probe.refresh_every=1")


@pytest.fixture(scope="module")
def refitted(ignorant_probe):
    """Settings of a run whose probe knows nothing, so that each refresh refits it, whatever the figures of so few references."""
    return (*EVERY, "probe.refresh_min_auc=0", f"probe.path={ignorant_probe}")


def test_a_probe_that_tells_the_references_apart_stays_and_the_bounds_follow_each_round(finished_run):
    result = finished_run(*EVERY)
    rows = pq.read_table(result.path / "probe.parquet").to_pylist()
    assert [(row["round"], row["version"], row["refresh"]) for row in rows] == [(0, 1, "kept"), (1, 1, "kept")]
    assert all(0 < row["refresh_wait_s"] < row["round_s"] for row in rows)
    assert {path.name for path in (result.path / "probes").iterdir()} == {"v1"}
    assert (result.summary["probe_refreshes"], result.summary["probe_refits"]) == (2, 0)
    assert result.summary["updates_refused"] == 0


def test_a_probe_that_does_not_is_refitted_and_judges_the_round(finished_run, refitted):
    result = finished_run(*refitted)
    first = pq.read_table(result.path / "probe.parquet").to_pylist()[0]
    assert (first["version"], first["refresh"]) == (2, "accepted")
    assert {row["probe_version"] for row in result.rounds.to_pylist() if row["round"] == 0} == {2}
    meta = load_probe(result.path / "probes/v2").meta
    assert (meta.version, meta.training["origin"]) == (2, "reference clients of round 1")
    assert all(client.startswith("live_reference-") for client in meta.training["clients"])


def test_the_same_seed_gives_the_same_bits_with_refreshes_on_two_actors(finished_run, run_small, refitted):
    one, two = finished_run(*refitted), run_small(*refitted, "cluster.client_actors=2")
    assert one.summary["adapter_sha256"] == two.summary["adapter_sha256"]
    files = [(result.path / "probes/v2/probe.safetensors").read_bytes() for result in (one, two)]
    assert files[0] == files[1]


def test_a_reference_client_that_fails_costs_the_refresh_and_no_more(local_ray, tmp_path):
    federation = Federation(load_config(None, [*SMALL, *LIVE, "probe.refresh_every=2", "probe.threshold=0.6"]), tmp_path / "run")
    (tmp_path / "run/data/tokens/reference-live_reference-calibration-benign-001.tokens").unlink()
    result = federation.run()
    rows = pq.read_table(result.path / "probe.parquet").to_pylist()
    assert [(row["version"], row["refresh"]) for row in rows] == [(1, "rejected"), (1, None)]
    assert rows[0]["refresh_why"].startswith("reference client live_reference-calibration-benign-001: client_failed: DataError")
    assert result.summary["rounds_aggregated"] == 2
    assert {row["probe_version"] for row in result.rounds.to_pylist()} == {1}


def test_the_live_level_keeps_the_model_safe_when_half_are_malicious(run_small):
    half = ("clients.count=6", "clients.malicious=3", "training.steps=8", "training.batch_size=16")
    summary = run_small(*MEASURED, *half, "defense.level=live").summary
    assert summary["rule_score"] >= 0.95
    assert summary["mean_weight_benign"] >= 0.95
    assert summary["mean_weight_malicious"] <= 0.1
