"""`safe-fedllm doctor` against real heads: one that asks for a token and one that is open, each with a second node.

The closed head's second node runs in a Python that lacks our packages and says it has another peft and a GPU; the open
head's does not answer.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.ray_connection.authentication import asks_for_token, present_token
from tests.chaos import wait_until
from tests.integration.test_submission import free_ports

TOKEN = "a" * 40
START = ["-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
OWN_DATA = ["defense.level=none", "clients.count=2", "clients.malicious=0", "model.path=/nowhere/llama", "data.path={data}"]


def environment(home: Path, token: str | None) -> dict[str, str]:
    """Of a machine that is nobody's: no settings of Ray's or CUDA's, a new home, and the token if there is one."""
    ours = ("RAY_", "CUDA_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"HOME": str(home)} | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})


@contextmanager
def ray_process(python: str, log: Path, env: dict[str, str], *options: str):
    """`ray start` with ports of its own; it and all that it started are ended by process id."""
    agent, metrics = free_ports(2)
    words = [python, *START, f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(words, env=env, cwd=log.parent, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        for member in [*psutil.Process(process.pid).children(recursive=True), process]:
            member.kill()
        process.wait(20)


def has_started(log: Path) -> bool:
    return "Ray runtime started" in log.read_text(errors="replace")


def bare_python(folder: Path) -> str:
    """A Python with our dependencies but not with our packages, in which peft says that it is 0.1."""
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "peft-0.1.dist-info").mkdir()
    (packages / "peft-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n")
    return str(folder / "bin/python")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """GCS addresses of the closed and the open head, and the process of the latter's second node."""
    folder, (closed_port, open_port, *client_ports) = tmp_path_factory.mktemp("heads"), free_ports(4)
    ports, tokens = {"closed": closed_port, "open": open_port}, {"closed": TOKEN, "open": None}
    addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    python = {"closed": bare_python(folder / "bare"), "open": sys.executable}
    temps = [tempfile.mkdtemp(prefix="head-", dir="/tmp") for _ in ports]  # Ray's sockets need a short path
    logs = {name: folder / f"{name}.log" for name in (*ports, "closed-node", "open-node")}
    with ExitStack() as stack:
        stack.callback(lambda: [shutil.rmtree(temp, ignore_errors=True) for temp in temps])
        for name, temp, client_port in zip(ports, temps, client_ports, strict=True):
            env = environment(folder, tokens[name]) | {"RAY_TMPDIR": temp}
            options = ["--head", f"--port={ports[name]}", "--num-cpus=1", "--include-dashboard=false", f"--temp-dir={temp}"]
            stack.enter_context(ray_process(sys.executable, logs[name], env, *options, f"--ray-client-server-port={client_port}"))
        for name in ports:
            wait_until(lambda name=name: has_started(logs[name]), 90, f"the {name} head")
        nodes = {}
        for name in ports:
            options = [f"--address={addresses[name]}", "--num-cpus=1", "--num-gpus=1"]
            node = ray_process(python[name], logs[f"{name}-node"], environment(folder, tokens[name]), *options)
            nodes[name] = stack.enter_context(node)
        for name in ports:
            wait_until(lambda name=name: has_started(logs[f"{name}-node"]), 90, f"the {name} head's node")
        yield addresses, nodes["open"]


def doctor(tmp_path: Path, address: str | None, token: str | None, *arguments: str) -> tuple[int, list[dict]]:
    """Exit code and findings, from a folder in which none of our packages lie; without an address of a local Ray."""
    cluster = ["--address", address] if address else []
    words = [sys.executable, "-c", "from cluster.cli import main; main()", "doctor", "--json", *cluster, *arguments]
    env = environment(tmp_path, token) | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def of_node(findings: list[dict], index: int) -> list[dict]:
    names = list(dict.fromkeys(finding["check"] for finding in findings if finding["check"].startswith("node ")))
    return [finding for finding in findings if finding["check"] == names[index]]


def test_a_local_ray_passes_and_ends_with_the_command(tmp_path):
    code, findings = doctor(tmp_path, None, None)
    details = {finding["check"]: finding["detail"] for finding in findings}
    assert code == 0, details
    assert "10 clients, probe per_layer" in details["model, data, prompts and probe"]
    assert "token" in details["authentication"]  # a local Ray may ask for one; then it takes what it made itself


def test_a_closed_head_passes_and_every_fault_of_its_nodes_is_named(heads, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"instruction": "Say hello.", "response": "Hello."}\n')
    arguments = [word.format(data=f"[{tmp_path}/a.jsonl,{tmp_path}/b.jsonl]") for word in OWN_DATA]
    code, findings = doctor(tmp_path, heads[0]["closed"], TOKEN, *arguments, "--timeout", "120")
    by_check = {finding["check"]: finding for finding in findings}
    assert code == 1
    assert by_check["authentication"]["ok"]
    assert "2 nodes" in by_check["connection"]["detail"]
    assert by_check["run directory"]["ok"]
    assert "client actors" in by_check["room"]["detail"]
    head, node = ([finding["detail"] for finding in of_node(findings, index)] for index in range(2))
    assert [detail.partition(";")[0] for detail in head] == ["cannot read model.path: /nowhere/llama"]
    version, imports, gpus, path = node
    assert "peft 0.1 (here " in version
    assert imports.startswith("cannot import actors, probe, defense, cluster (ModuleNotFoundError")
    assert "Ray counts 1 GPUs, torch sees 0" in gpus
    assert path == head[0]
    assert sorted(item.name for item in tmp_path.iterdir() if item.is_dir()) in ([], [".ray"])


def test_an_open_head_fails_and_a_node_that_does_not_answer_is_named(heads, tmp_path):
    addresses, node = heads
    for child in psutil.Process(node.pid).children(recursive=True):
        if child.name() == "raylet":
            child.suspend()
    code, findings = doctor(tmp_path, addresses["open"], None, "--timeout", "6")
    by_check = {finding["check"]: finding for finding in findings}
    assert code == 1
    assert not by_check["authentication"]["ok"]
    assert "is open" in by_check["authentication"]["detail"]
    assert "ray get-auth-token --generate" in by_check["authentication"]["detail"]
    assert [finding["detail"].partition(";")[0] for finding in of_node(findings, 1)] == ["no answer within 6 s"]


def test_tokens_are_told_apart_in_seconds(heads, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    assert not asks_for_token(heads[0]["open"])
    with pytest.raises(ClusterError, match="this machine has none"):
        present_token(heads[0]["closed"])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 40)
    with pytest.raises(ClusterError, match="refuses this machine's token"):
        present_token(heads[0]["closed"])
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    present_token(heads[0]["closed"])
