"""A federation with participants outside the cluster: processes of their own, which reach it by HTTPS on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from actors.world.store import base_folder, world_folder
from cluster import Federation, load_config
from cluster.errors import ConfigError
from cluster.report.reading import read_run
from tests import demo_remote
from tests.chaos import actor_processes, committed_rounds, start_run, wait_until
from tests.integration.conftest import SMALL

HONEST = ("clients.malicious=0",)


@pytest.fixture
def gateway(tmp_path) -> list[str]:
    """Overrides of a gateway for two of the four clients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        "gateway.enabled=true",
        "gateway.clients=[client-001,client-003]",
        f"gateway.port={port}",
        f"gateway.folder={tmp_path}/gateway",
    ]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cluster", *words]


def invitation(client: str, overrides: list[str]) -> str:
    words = command("enroll", client, *SMALL, *HONEST, *overrides)
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()


class Participant:
    """`safe-fedllm join` in a process of its own; Ray cannot be imported in it."""

    def __init__(self, folder: Path, data: Path, *more: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text("import sys\nsys.modules['ray'] = None\n")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path[1:], str(Path.cwd())])}
        words = ["join", "--data", str(data), "--model", str(base_folder(world_folder(0))), "--key", str(folder / "client.key")]
        self.process = subprocess.Popen(
            command(*words, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)

    def wait_for(self, text: str, timeout_s: float = 120.0) -> None:
        until = time.monotonic() + timeout_s
        while not any(text in line for line in self.lines):
            assert time.monotonic() < until, f"no {text!r} in {self.lines}"
            assert self.process.poll() is None, self.lines
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> str:
        """What it said, once it has ended by itself."""
        assert self.process.wait(60) == 0, self.lines
        self._reader.join(30)
        return "".join(self.lines)


def test_local_and_remote_clients_give_the_same_adapter_though_one_is_killed_and_comes_back(finished_run, gateway, tmp_path):
    local = finished_run(*HONEST)
    data = {name: local.path / "data" / f"{name}.parquet" for name in ("client-001", "client-003")}
    first = Participant(tmp_path / "one", data["client-001"], "--invitation", invitation("client-001", gateway))
    other = Participant(tmp_path / "other", data["client-003"], "--invitation", invitation("client-003", gateway))
    made: list[Participant] = []

    def kill_and_come_back() -> None:
        first.wait_for("round 1: training")
        first.kill()
        made.append(Participant(tmp_path / "one", data["client-001"]))

    killer = threading.Thread(target=kill_and_come_back)
    killer.start()
    remote = Federation(load_config(None, [*SMALL, *HONEST, *gateway]), tmp_path / "run").run()
    killer.join(60)
    assert remote.summary["adapter_sha256"] == local.summary["adapter_sha256"]
    assert "round 2: sent" in made[0].end()
    assert "the federation has ended" in other.end()
    assert all(row["admitted"] for row in remote.rounds.to_pylist())


def test_gateway_and_driver_are_killed_and_the_resumed_run_ends_in_the_same_bits(finished_run, gateway, tmp_path):
    local = finished_run(*HONEST, "rounds=3")
    joined = [
        Participant(tmp_path / name, local.path / "data" / f"{name}.parquet", "--invitation", invitation(name, gateway))
        for name in ("client-001", "client-003")
    ]
    run, log = tmp_path / "run", tmp_path / "log"
    driver = start_run([*SMALL, *HONEST, "rounds=3", *gateway, "--output", str(run)], log)
    try:
        joined[0].wait_for("round 1: training")
        for process in actor_processes("gateway", driver.pid):
            process.kill()
        wait_until(lambda: committed_rounds(run) or driver.poll() is not None, 200, "the first commit")
    finally:
        driver.kill()
    assert driver.wait(20) == -9, log.read_text()
    assert start_run(["--resume", str(run)], log).wait(200) == 0, log.read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["adapter_sha256"] == local.summary["adapter_sha256"]
    assert all("the federation has ended" in participant.end() for participant in joined)


def test_who_is_away_costs_the_round_its_deadline_and_the_others_go_on(local_ray, gateway, tmp_path):
    invitation("client-001", gateway)
    overrides = [*SMALL, *HONEST, *gateway, "rounds=1", "clients.timeout_s=5", "clients.min_updates=2"]
    run = Federation(load_config(None, overrides), tmp_path / "run").run()
    rows = {row["client_id"]: row for row in run.rounds.to_pylist()}
    assert rows["client-001"]["reason"].startswith("late")
    assert rows["client-003"]["reason"].startswith("late")
    assert rows["client-000"]["admitted"]
    assert rows["client-002"]["round_outcome"] == "aggregated"


def test_without_a_certificate_the_run_says_what_to_do(local_ray, gateway, tmp_path):
    with pytest.raises(ConfigError, match="safe-fedllm enroll"):
        Federation(load_config(None, [*SMALL, *HONEST, *gateway]), tmp_path / "run").run()


def test_a_participant_with_changed_code_and_one_with_unsafe_data_count_for_nothing(tmp_path):
    run = demo_remote.demo(
        tmp_path, ["rounds=2", "evaluation.every=2", "evaluation.max_restricted=60", "evaluation.max_benign=60"]
    )
    found = read_run(run)
    by_client = {name: [row for row in found.clients if row["client_id"] == name] for name in demo_remote.NAMES}
    assert all(row["weight"] > 0.5 for row in by_client[demo_remote.HONEST])
    assert all(row["reason"].startswith("norm_exceeded") for row in by_client[demo_remote.BOOSTS])
    assert all((row["excluded_by"], row["weight"]) == ("live", 0.0) for row in by_client[demo_remote.UNSAFE])
    logs = [(tmp_path / "participants" / name / "participant.log").read_text() for name in demo_remote.NAMES]
    assert all("the federation has ended" in log for log in logs)
