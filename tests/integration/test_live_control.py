"""Orders to a live run from other sessions: scale, pause, resume, set, stop; status; and going on afterwards."""

import json
import subprocess
import sys
import threading

import pytest
import ray
from typer.testing import CliRunner

from cluster import Federation, load_config
from cluster.cli import app
from cluster.errors import ClusterError, ConfigError
from cluster.live.control import start_control
from cluster.reporting.callback import RunCallback
from cluster.reporting.status import first_status
from tests.chaos import wait_until
from tests.integration.conftest import SMALL
from tests.unit.cluster.builders import state_in

LONG = [*SMALL, "rounds=40", "evaluation.every=40", "defense.level=step"]
CARRIED_OUT = ["scale 6", "set defense.skip_below=0.05", "scale 1", "scale 5"]


class Log(RunCallback):
    def __init__(self, on_round=lambda index: None):
        self.rounds, self.refused, self.carried_out, self._on_round = [], [], [], on_round

    def round_started(self, round_index, client_ids):
        self.rounds.append(list(client_ids))
        self._on_round(round_index)

    def order_refused(self, why):
        self.refused.append(why)

    def order_carried_out(self, round_index, order):
        self.carried_out.append((round_index, order))


@pytest.fixture
def start(local_ray, tmp_path):
    """Start a run in a thread; returns its log, and a function that waits for its result."""

    def start(*overrides):
        log, results = Log(), []
        log.federation = federation = Federation(load_config(None, [*LONG, *overrides]), tmp_path / "run", log)
        thread = threading.Thread(target=lambda: results.append(federation.run()))
        thread.start()

        def finish():
            thread.join(120)
            return results[0]

        wait_until(lambda: log.rounds, 120, "the first round")
        return log, finish

    return start


def command(*arguments: str) -> subprocess.CompletedProcess:
    """A session in a process of its own."""
    words = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_a_live_run_is_watched_scaled_paused_changed_and_stopped_from_here_and_from_another_process(start, tmp_path):
    log, finish = start("name=mine")
    live = Federation.attach("mine")
    live.pause()
    live.wait("paused", 60)
    num_rounds = len(log.rounds)
    live.scale(6)
    live.set("defense.skip_below=0.05")
    live.set("defense.skip_below=7")
    live.set("defense.level=none")
    live.set("defense.guard.enabled=true")
    live.scale(1)
    live.scale(5)
    live.resume()
    wait_until(lambda: len(log.rounds) >= num_rounds + 2, 60, "two more rounds")
    assert len(log.rounds[num_rounds - 1]) == 4
    assert log.rounds[num_rounds] == [f"client-{i:03d}" for i in range(5)]
    assert [order for _, order in log.carried_out] == CARRIED_OUT
    assert len(log.refused) == 3
    assert "skip_below" in log.refused[0]
    assert all("fixed while a run is live" in why for why in log.refused[1:])
    status = live.status()
    assert status["rounds"] == 40
    assert set(status["clients"]) == set(log.rounds[num_rounds])
    assert set(status["weights"]) <= set(status["clients"])
    assert len(ray.get(live.aggregator.adapter.remote())) > 1000
    assert ray.get(live.probe.meta.remote()).version == 1
    with pytest.raises(ConfigError, match="only defense"):
        live.set("seed=1")
    with pytest.raises(ConfigError, match="at least one client"):
        live.scale(0)

    address = ray.get_runtime_context().gcs_address
    watching = [sys.executable, "-m", "cluster", "status", "--watch", "--address", address]
    watcher = subprocess.Popen(watching, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    shown = command("status", "--json", "--address", address)
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert (status["name"], status["rounds"], len(status["clients"])) == ("mine", 40, 5)
    assert "mine: running" in CliRunner().invoke(app, ["status"]).output
    assert "no live run is named nobody: --name mine" in str(CliRunner().invoke(app, ["status", "--name", "nobody"]).exception)
    stopped = command("stop", "--name", "mine", "--address", address)
    assert (stopped.returncode, stopped.stdout.startswith("mine: stop")) == (0, True), stopped.stderr
    result = finish()
    watched, errors = watcher.communicate(timeout=60)
    assert (watcher.returncode, "of 5 clients" in watched, "run mine has ended" in watched) == (0, True, True), errors
    assert result.summary["rounds_done"] == len(log.rounds) < 40
    assert [change["order"] for change in result.summary["changes"]] == CARRIED_OUT
    saved = state_in(tmp_path / "run/checkpoints")
    assert saved.aggregator.defense.skip_below == 0.05
    assert load_config(tmp_path / "run/config.yaml") == saved.config
    assert len(saved.membership.active) == 5
    assert len(saved.membership.known) == 6
    assert set(saved.aggregator.trust["step"]) == {f"client-{i:03d}" for i in range(5)}
    with pytest.raises(ClusterError, match="has ended"):
        live.status()
    with pytest.raises(ClusterError, match="no run is live"):
        Federation.attach()


def test_a_client_that_leaves_keeps_its_trust_and_a_stopped_run_goes_on_with_its_roster(start, tmp_path):
    log, finish = start()
    live = Federation.attach()
    for clients in (2, 4, 5):
        before = len(log.carried_out)
        (live if clients < 5 else log.federation).scale(clients)
        wait_until(lambda before=before: len(log.carried_out) > before and len(log.rounds[-1]) == clients, 60, "the order")  # noqa: B023
    live.stop()
    result = finish()
    state = state_in(tmp_path / "run/checkpoints")
    took_part = {
        client: sum(row["client_id"] == client for row in result.rounds.to_pylist()) for client in state.membership.known
    }
    trust = {client: state.aggregator.trust["step"][client]["rounds"] for client in state.membership.known}
    assert trust == {client: min(20, rounds) for client, rounds in took_part.items()}
    assert took_part["client-004"] < took_part["client-003"] < took_part["client-000"]

    left = Log(on_round=lambda index: Federation.attach().stop() if len(left.rounds) == 2 else None)
    resumed = Federation.resume(tmp_path / "run", left).run()
    assert [len(clients) for clients in left.rounds] == [5, 5]
    assert resumed.summary["rounds_done"] == len(log.rounds) + 2


def test_a_run_that_has_no_actors_yet_says_so(local_ray):
    control = start_control(first_status("early"))
    try:
        with pytest.raises(ClusterError, match="run early is still starting; its actors can be had from its first round on"):
            Federation.attach("early").aggregator  # noqa: B018 - it is asked for to see it refused
    finally:
        ray.kill(control)
