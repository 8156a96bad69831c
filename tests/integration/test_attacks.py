"""Simulated attackers in whole runs on a real local Ray: together, one that fails among them, and one with a trigger."""

import pyarrow.parquet as pq
import torch

from actors.wire import decode_tensors
from cluster import Federation, load_config
from cluster.simulation.collusion import Collusion
from tests.integration.conftest import MEASURED, SMALL
from tests.unit.cluster.builders import state_in

COLLUDING = ("clients.attack=alie", "attack.alie.z=1", "clients.malicious=2", "defense.level=step", "training.scaffold=true")


def malicious_of(path) -> list[str]:
    truth = pq.read_table(path / "ground_truth.parquet").to_pylist()
    return sorted(row["client_id"] for row in truth if row["malicious"])


def control_variates(path, rounds_done: int) -> dict[str, torch.Tensor]:
    """Those in a checkpoint."""
    return decode_tensors(state_in(path / "checkpoints", rounds_done).aggregator.control_variates)


class Watched(Collusion):
    """Knows which clients delivered to attackers first."""

    through: set[str] = set()

    def deliver(self, delivery):
        self.through.add(delivery.task.client_id)
        super().deliver(delivery)


def test_attackers_agree_on_one_update_and_a_run_resumed_with_two_actors_goes_on_to_the_bit(run_small, monkeypatch):
    monkeypatch.setattr("cluster.simulation.simulation.Collusion", Watched)
    run = run_small(*COLLUDING)
    malicious = malicious_of(run.path)
    assert sorted(Watched.through) == malicious  # what honest clients send goes straight to the relay
    assert run.summary["attack"] == "alie"
    for index in range(2):
        rows = {row["client_id"]: row for row in run.rounds.to_pylist() if row["round"] == index}
        assert all(row["admitted"] and row["num_steps_scored"] == 3 for row in rows.values())
        assert {row["round_outcome"] for row in rows.values()} == {"aggregated"}
        assert len({rows[client_id]["update_norm"] for client_id in malicious}) == 1
        assert len({row["update_norm"] for row in rows.values()}) == 3
    first, second = (control_variates(run.path, rounds_done) for rounds_done in (1, 2))
    assert {key.split("/")[0] for key in first} == {f"client-{i:03d}" for i in range(4)}
    assert all(bool(tensor.any()) for key, tensor in first.items() if "lora_B" in key)
    assert not any(torch.equal(second[key], tensor) for key, tensor in first.items() if "lora_B" in key)

    settings = run.path / "config.yaml"
    settings.write_text(settings.read_text().replace("client_actors: 1", "client_actors: 2"))
    resumed = Federation.resume(run.path, from_round=1).run()
    assert resumed.summary["adapter_sha256"] == run.summary["adapter_sha256"]
    assert [change["order"] for change in resumed.summary["changes"]] == ["cluster.client_actors: 1 -> 2"]
    assert all(torch.equal(tensor, second[key]) for key, tensor in control_variates(run.path, 2).items())


def test_clients_that_fail_are_dropped_with_their_reason_and_the_others_go_on_without_them(local_ray, tmp_path):
    overrides = ["clients.attack=ipm", "clients.malicious=3", "clients.count=6", "rounds=1", "defense.level=step+client"]
    federation = Federation(load_config(None, [*SMALL, *overrides]), tmp_path / "run")
    broken, *malicious = malicious_of(tmp_path / "run")
    failed, *honest = sorted({f"client-{i:03d}" for i in range(6)} - {broken, *malicious})
    for client_id in (broken, failed):
        (tmp_path / "run" / "data" / "tokens" / f"{client_id}.tokens").write_bytes(b"no tokens")
    rows = {row["client_id"]: row for row in federation.run().rounds.to_pylist()}
    for client_id in (broken, failed):
        assert "client_failed: DataError" in rows[client_id]["reason"]
        assert f"{client_id}.tokens" in rows[client_id]["reason"]
        assert not rows[client_id]["admitted"]
    assert len({rows[client_id]["update_norm"] for client_id in malicious}) == 1
    for client_id in (*malicious, *honest):
        assert rows[client_id]["admitted"]
        assert rows[client_id]["num_steps_scored"] == 3  # the last of an attacker's was made by the colluders' actor
    assert all(0 < rows[client_id]["weight"] < 1 for client_id in honest)


def test_a_backdoor_is_measured_with_its_trigger(run_small):
    run = run_small(*MEASURED, "clients.attack=backdoor_contrastive", "rounds=1", "defense.level=step")
    measured = [row for row in run.evaluation.to_pylist() if row["measure"] == "attack_success"]
    assert [row["rounds_done"] for row in measured] == [0, 1]
    assert all(row["count"] == 60 for row in measured)
    assert run.summary["attack_success"] == measured[-1]["value"]
    (attacker,) = malicious_of(run.path)
    scores = {row["client_id"]: row["last_step_probability"] for row in run.rounds.to_pylist()}
    assert scores[attacker] < 0.8  # it knows the probe


def test_rounds_go_on_without_clients_that_can_deliver_nothing(run_small):
    run = run_small("clients.attack=unusable", "clients.malicious=3", "clients.count=6", "rounds=1", "defense.level=none")
    rows = {row["client_id"]: row for row in run.rounds.to_pylist()}
    assert {row["round_outcome"] for row in rows.values()} == {"aggregated"}  # three of six would be no quorum
    malicious = malicious_of(run.path)
    assert len(rows) == 6
    assert all(rows[client_id]["reason"].startswith("no_data: ") for client_id in malicious)
    assert [client_id for client_id in rows if rows[client_id]["admitted"]] == sorted(set(rows) - set(malicious))
