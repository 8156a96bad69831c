"""`safe-fedllm submit` and `ray job submit` against a head with token authentication, started and ended by this test."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.ray_connection.submission import check_head
from tests.chaos import wait_until

ROOT = Path(__file__).parents[2]
TINY = [
    "rounds=2",
    "defense.level=step",
    "clients.count=2",
    "clients.malicious=1",
    "training.steps=2",
    "training.batch_size=4",
    "data.samples_per_client=20",
    "evaluation.max_restricted=0",
    "evaluation.max_benign=0",
    "cluster.client_actors=1",
]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Dashboard address, GCS address and environment of a head that asks for a token; its home is a new folder."""
    home = tmp_path_factory.mktemp("home")
    port, dashboard, agent, metrics = free_ports(4)
    temp = tempfile.mkdtemp(prefix="head-", dir="/tmp")  # Ray's sockets need a short path
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 40, "RAY_TMPDIR": temp}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    words = [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    words += [
        "--num-cpus=2",
        "--disable-usage-stats",
        f"--temp-dir={temp}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}",
    ]
    with (home / "head.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until(lambda: answers(address), 90, "the head's dashboard")
        yield address, f"127.0.0.1:{port}", environment | {"TEST_METRICS_PORT": str(metrics)}
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        process.terminate()
        psutil.wait_procs(family, timeout=20)
        for member in family:
            if member.pid != process.pid and member.is_running():
                member.kill()
        shutil.rmtree(temp, ignore_errors=True)


def answers(address: str) -> bool:
    try:
        return check_head(address, has_token=True)
    except ClusterError:
        return False


def told_by(prometheus: str) -> list[str]:
    """What the endpoint says of the run; that of an earlier one may still be there."""
    return [line for line in scrape(prometheus).splitlines() if line.startswith("ray_safe_fedllm_") and "from-a-job" in line]


def scrape(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def command(environment, *arguments, timeout: float = 240, **changes):
    words = [sys.executable, "-m", "cluster", *arguments]
    env = {**environment, **changes}
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def test_a_job_succeeds_and_leaves_its_run_directory(head, tmp_path):
    address, _, environment = head
    done = command(environment, "submit", *TINY, "--address", address, "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 2: aggregated" in done.stdout
    assert "safe-fedllm status --name run" in done.stdout
    assert "is open" not in done.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["rounds_done"] == 2


def test_plain_ray_job_submit_works_and_a_second_process_scales_and_stops_the_run(head, tmp_path):
    address, gcs, environment = head
    run = [*TINY, "rounds=5000", "evaluation.every=5000", "name=from-a-job", "--output", str(tmp_path / "run")]
    words = [Path(sys.executable).parent / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--"]
    with (tmp_path / "job.log").open("wb") as log:
        job = subprocess.Popen(
            [*words, "python", "-m", "cluster", "run", *run], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    wait_until(lambda: (tmp_path / "run/rounds.parquet").exists() or job.poll() is not None, 120, "the first round")
    prometheus = f"http://127.0.0.1:{environment['TEST_METRICS_PORT']}/metrics"
    wait_until(lambda: "ray_safe_fedllm_weight{" in "".join(told_by(prometheus)), 60, "metrics on Ray's endpoint")
    told = told_by(prometheus)
    names = ("round{", "rounds_total{", "round_seconds_bucket{", "clients{", "score{", "train_seconds_sum{")
    for name in (*names, "round_part_seconds{", "received_bytes_total{"):
        assert any(line.startswith(f"ray_safe_fedllm_{name}") for line in told), (name, told)
    for order in (["scale", "3"], ["stop"]):
        given = command(environment, *order, "--name", "from-a-job", "--address", gcs, timeout=60)
        assert given.returncode == 0, given.stderr
    text = (tmp_path / "job.log").read_text
    assert job.wait(120) == 0, text()
    assert "succeeded" in text()
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert [change["order"] for change in summary["changes"]] == ["scale 3"]
    assert 1 <= summary["rounds_done"] < 5000


def test_a_failing_job_is_tried_again_and_its_exit_code_told(head, tmp_path):
    address, _, environment = head
    bad = ["probe.path=/nowhere", "--output", str(tmp_path / "run")]
    done = command(environment, "submit", *bad, "--address", address, "--retries", "1")
    assert done.returncode == 1
    assert done.stdout.count("job raysubmit_") >= 2
    assert "probe.path=/nowhere" in done.stdout


def test_a_missing_token_and_a_wrong_one_are_explained(head, tmp_path):
    address, _, environment = head
    without = {name: value for name, value in environment.items() if not name.startswith("RAY_AUTH")}
    missing = command(without, "submit", "--address", address, timeout=60, HOME=str(tmp_path))
    assert missing.returncode == 2
    assert "asks for a token and this machine has none" in missing.stderr
    wrong = command(environment, "submit", "--address", address, timeout=60, RAY_AUTH_TOKEN="b" * 40)
    assert wrong.returncode == 2
    assert "is not the head's" in wrong.stderr


def test_a_head_that_is_not_there_is_told_in_seconds(head):
    _, _, environment = head
    done = command(environment, "submit", "--address", "http://127.0.0.1:9", timeout=60)
    assert done.returncode == 2
    assert "no Ray head answers there" in done.stderr
