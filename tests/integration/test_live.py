"""Level live on a real local Ray: the probe follows the global adapter, and a refresh that fails leaves it as it was."""

import pyarrow.parquet as pq

from cluster import Federation, load_config
from probe.artefact import load_probe
from tests.integration.conftest import MEASURED, SMALL

LIVE = ("defense.level=live", "probe.refresh_clients=3")
REFRESHED = (*LIVE, "probe.refresh_min_auc=0")
"""Refreshed in both rounds, whatever the figures of so few reference clients."""


def test_every_round_is_judged_by_a_probe_refreshed_in_it(finished_run):
    result = finished_run(*REFRESHED)
    rows = pq.read_table(result.path / "probe.parquet").to_pylist()
    assert [(row["round"], row["version"], row["refresh"]) for row in rows] == [(0, 2, "accepted"), (1, 3, "accepted")]
    assert {(row["round"], row["probe_version"]) for row in result.rounds.to_pylist()} == {(0, 2), (1, 3)}
    assert all(0 < row["refresh_wait_s"] < row["round_s"] for row in rows)
    versions = {path.name: load_probe(path).meta for path in (result.path / "probes").iterdir()}
    assert {name: meta.version for name, meta in versions.items()} == {"v1": 1, "v2": 2, "v3": 3}
    assert versions["v3"].training["origin"] == "reference clients of round 2"
    assert all(client.startswith("live_reference-") for client in versions["v3"].training["clients"])
    assert versions["v2"].recipe["learning_rate"] > versions["v3"].recipe["learning_rate"]
    assert result.summary["probe_refreshes"] == 2
    assert result.summary["updates_refused"] == 0


def test_the_same_seed_gives_the_same_bits_with_refreshes_on_two_actors(finished_run, run_small):
    one, two = finished_run(*REFRESHED), run_small(*REFRESHED, "cluster.client_actors=2")
    assert one.summary["adapter_sha256"] == two.summary["adapter_sha256"]
    files = [(result.path / "probes/v3/probe.safetensors").read_bytes() for result in (one, two)]
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
