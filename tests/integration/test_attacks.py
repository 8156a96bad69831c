"""Simulated attackers in whole runs on a real local Ray: one of each way to attack, and collusion to the bit."""

import pyarrow.parquet as pq

from cluster import Federation, load_config
from tests.integration.conftest import MEASURED, SMALL

COLLUDING = ("clients.attack=alie", "attack.alie.z=1", "clients.malicious=2", "rounds=1")


def malicious_of(run) -> set[str]:
    return {row["client_id"] for row in pq.read_table(run.path / "ground_truth.parquet").to_pylist() if row["malicious"]}


def test_a_colluding_run_gives_the_same_bits_with_one_actor_and_with_two(run_small):
    one, two = run_small(*COLLUDING), run_small(*COLLUDING, "cluster.client_actors=2")
    assert two.summary["adapter_sha256"] == one.summary["adapter_sha256"]
    rows = {row["client_id"]: row for row in one.rounds.to_pylist()}
    assert all(row["admitted"] and row["num_steps_scored"] == 3 for row in rows.values())
    assert len({rows[client_id]["update_norm"] for client_id in malicious_of(one)}) == 1
    assert len({row["update_norm"] for row in rows.values()}) == 3
    assert one.summary["attack"] == "alie"


def test_an_attacker_that_fails_is_dropped_and_the_others_collude_without_it(local_ray, tmp_path):
    overrides = ["clients.attack=ipm", "clients.malicious=3", "clients.count=5", "rounds=1", "defense.level=step"]
    federation = Federation(load_config(None, [*SMALL, *overrides]), tmp_path / "run")
    truth = pq.read_table(tmp_path / "run" / "ground_truth.parquet").to_pylist()
    malicious = sorted(row["client_id"] for row in truth if row["malicious"])
    (tmp_path / "run" / "data" / f"{malicious[0]}.parquet").write_bytes(b"not parquet")
    rows = {row["client_id"]: row for row in federation.run().rounds.to_pylist()}
    assert "client_failed: DataError" in rows[malicious[0]]["reason"]
    assert rows[malicious[1]]["admitted"]
    assert rows[malicious[1]]["update_norm"] == rows[malicious[2]]["update_norm"]
    assert rows[malicious[1]]["num_steps_scored"] == 3  # the last of them was made by the attackers' actor


def test_a_backdoor_is_measured_with_its_trigger(run_small):
    run = run_small(*MEASURED, "clients.attack=backdoor_contrastive", "rounds=1", "defense.level=step")
    measured = [row for row in run.evaluation.to_pylist() if row["measure"] == "attack_success"]
    assert [row["rounds_done"] for row in measured] == [0, 1]
    assert all(row["count"] == 60 for row in measured)
    assert run.summary["attack_success"] == measured[-1]["value"]
    (attacker,) = malicious_of(run)
    scores = {row["client_id"]: row["last_step_probability"] for row in run.rounds.to_pylist()}
    assert scores[attacker] < 0.8  # it knows the probe


def test_a_sleeper_attacks_in_the_second_half(run_small):
    run = run_small("clients.attack=sleeper", "defense.level=step", "evaluation.every=2")
    (attacker,) = malicious_of(run)
    scores = {row["round"]: row["last_step_probability"] for row in run.rounds.to_pylist() if row["client_id"] == attacker}
    assert scores[0] < 0.8 < scores[1]
    assert len({path.name for path in (run.path / "data").glob("client-*.parquet")}) == 8  # a second one for everybody
