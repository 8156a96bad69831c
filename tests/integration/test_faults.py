"""Parts of a run are killed with SIGKILL: it finishes, no round is lost or counted twice, and the bits are the same."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest

from cluster import Federation, load_config
from cluster.errors import ClusterError
from cluster.reporting.callback import RunCallback
from tests.chaos import Killer, actor_processes, committed_rounds, start_run, wait_until
from tests.integration.conftest import MEASURED, SMALL

FAULTS = [
    *SMALL,
    *MEASURED,
    "clients.on_client_loss=retry_round",
    "training.steps=8",
    "rounds=6",
    "defense.level=shadow+canary",
    "defense.canary.max_rise=0.5",
    "evaluation.every=3",
]
KINDS = ("client", "probe", "aggregator", "canary", "evaluation")


class Saboteur(RunCallback):
    """Kills an actor of another kind in each round after the first, when the round's first client has finished."""

    def __init__(self, victims: dict[int, str], times: int = 1) -> None:
        self.victims, self.left, self.round, self.begun_again = victims, dict.fromkeys(victims, times), 0, []

    def round_started(self, round_index, client_ids):
        self.round = round_index

    def client_done(self, client_id, why=None):
        if self.left.get(self.round):
            self.left[self.round] -= 1
            Killer(self.victims[self.round], 0.0).run()

    def round_lost(self, round_index, why):
        self.begun_again.append((self.victims[round_index], why))


@pytest.fixture(scope="module")
def undisturbed(local_ray, tmp_path_factory):
    return Federation(load_config(None, FAULTS), tmp_path_factory.mktemp("undisturbed") / "run").run()


def assert_same(result, undisturbed):
    columns = ["round", "client_id", "admitted", "weight", "last_step_probability", "update_norm", "loss", "round_outcome"]
    assert result.rounds.select(columns).equals(undisturbed.rounds.select(columns))
    assert result.summary["adapter_sha256"] == undisturbed.summary["adapter_sha256"]
    assert result.evaluation.equals(undisturbed.evaluation)


def test_the_death_of_an_actor_of_each_kind_changes_no_bit(undisturbed, tmp_path):
    saboteur = Saboteur(dict(enumerate(KINDS, start=1)))
    result = Federation(load_config(None, FAULTS), tmp_path / "run", saboteur).run()
    assert not any(saboteur.left.values())
    assert [kind for kind, _ in saboteur.begun_again] == list(KINDS)  # canary and evaluation are one process
    assert "client_lost" in saboteur.begun_again[0][1]
    assert "the probe or an actor with server data is gone" in saboteur.begun_again[1][1]
    assert_same(result, undisturbed)


def test_a_dead_client_costs_its_client_the_round_and_a_run_that_keeps_losing_actors_says_how_to_go_on(local_ray, tmp_path):
    settings = ["defense.level=none", "clients.min_updates=1", "cluster.round_attempts=2"]  # a dead client is dropped
    saboteur = Saboteur({0: "client", 1: "aggregator"}, times=100)
    saboteur.left[0] = 1
    with pytest.raises(ClusterError, match=r"round 2 lost actors in all cluster.round_attempts=2.*run --resume"):
        Federation(load_config(None, [*SMALL, *settings]), tmp_path / "run", saboteur).run()
    assert committed_rounds(tmp_path / "run") == 1
    rows = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    (lost,) = [row for row in rows if not row["admitted"]]
    assert lost["round"] == 0
    assert lost["reason"].startswith("client_lost: ")


def test_a_killed_driver_resumes_from_the_last_commit(undisturbed, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    driver = start_run([*FAULTS, "--output", str(run)], log)
    try:
        wait_until(lambda: committed_rounds(run) or driver.poll() is not None, 120, "the first commit")
    finally:
        driver.kill()
    assert driver.wait(20) == -9, log.read_text()
    assert not (run / "summary.json").exists()
    resumed = start_run(["--resume", str(run)], log)
    assert resumed.wait(120) == 0, log.read_text()
    assert json.loads((run / "summary.json").read_text())["adapter_sha256"] == undisturbed.summary["adapter_sha256"]
    assert "resumed after" in log.read_text()
    adapter = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(adapter).hexdigest() == undisturbed.summary["adapter_sha256"]


def test_no_actor_is_left_when_the_runs_are_over(local_ray):
    wait_until(
        lambda: not any(actor_processes(kind) for kind in ("client", "probe", "canary", "aggregator")),
        20,
        "the end of all actors",
    )
