"""Parts of a run are killed with SIGKILL: it finishes, no round is lost or counted twice, and the bits are the same."""

import hashlib
import json

import pytest

from cluster import Federation, load_config
from cluster.errors import ClusterError
from cluster.progress import Progress
from tests.chaos import Killer, actor_processes, committed_rounds, start_run, wait_until
from tests.integration.conftest import SMALL

FAULTS = [*SMALL, "clients.on_client_loss=retry_round", "training.steps=12", "rounds=3"]


class Saboteur(Progress):
    """Kills an actor of a kind in the second round, when its first client has finished."""

    def __init__(self, kind: str, times: int = 1) -> None:
        self.kind, self.left, self.round, self.begun_again = kind, times, -1, []

    def round_started(self, round_index, num_clients):
        self.round = round_index

    def client_done(self, client_id):
        if self.round == 1 and self.left:
            self.left -= 1
            Killer(self.kind, 0.0).run()

    def round_lost(self, round_index, why):
        self.begun_again.append((round_index, why))


@pytest.fixture(scope="module")
def undisturbed(local_ray, tmp_path_factory):
    return Federation(load_config(None, FAULTS), tmp_path_factory.mktemp("undisturbed") / "run").run()


def assert_same(result, undisturbed):
    columns = ["round", "client_id", "admitted", "weight", "last_step_probability", "update_norm", "loss", "round_outcome"]
    assert result.rounds.select(columns).equals(undisturbed.rounds.select(columns))
    assert result.summary["adapter_sha256"] == undisturbed.summary["adapter_sha256"]
    assert result.evaluation.equals(undisturbed.evaluation)


@pytest.mark.parametrize("kind", ["client", "probe", "aggregator", "evaluation"])
def test_a_killed_actor_changes_no_bit(kind, undisturbed, tmp_path):
    saboteur = Saboteur(kind)
    result = Federation(load_config(None, FAULTS), tmp_path / "run", saboteur).run()
    assert saboteur.left == 0
    assert [index for index, _ in saboteur.begun_again] == ([] if kind == "evaluation" else [1])
    assert_same(result, undisturbed)


def test_a_killed_probe_changes_no_bit_at_level_live(local_ray, tmp_path):
    live = [*FAULTS, "defense.level=live", "probe.refresh_clients=2", "probe.refresh_every=2", "rounds=2"]
    live += ["probe.refresh_min_tpr=0", "probe.refresh_max_fpr=1"]
    quiet = Federation(load_config(None, live), tmp_path / "quiet").run()
    saboteur = Saboteur("probe")
    result = Federation(load_config(None, live), tmp_path / "run", saboteur).run()
    assert len(saboteur.begun_again) == 1
    assert {row["probe_version"] for row in result.rounds.to_pylist()} == {2}
    assert_same(result, quiet)


def test_a_run_that_keeps_losing_actors_says_how_to_go_on_and_does(undisturbed, tmp_path):
    saboteur = Saboteur("client", times=100)
    with pytest.raises(ClusterError, match=r"round 2 lost actors in all cluster.round_attempts=2.*run --resume"):
        Federation(load_config(None, [*FAULTS, "cluster.round_attempts=2"]), tmp_path / "run", saboteur).run()
    assert committed_rounds(tmp_path / "run") == 1
    assert_same(Federation.resume(tmp_path / "run").run(), undisturbed)


def test_a_killed_driver_resumes_from_the_last_commit_and_goes_back_when_asked(undisturbed, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    driver = start_run([*FAULTS, "checkpoint.keep=5", "--output", str(run)], log)
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
    went_back = Federation.resume(run, from_round=1).run()
    assert_same(went_back, undisturbed)
    adapter = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(adapter).hexdigest() == undisturbed.summary["adapter_sha256"]


def test_no_actor_is_left_when_the_runs_are_over(local_ray):
    wait_until(lambda: not any(actor_processes(kind) for kind in ("client", "probe", "aggregator")), 20, "the end of all actors")
