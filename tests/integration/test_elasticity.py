"""A live run on a cluster that gains and loses a node, with clients that come and go, and a server of its own."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from cluster import Federation, load_config
from cluster.reporting.callback import RunCallback
from tests.chaos import actor_processes, start_run, wait_until
from tests.integration.conftest import SMALL

LABEL = "safe-fedllm/role=server"
SETTINGS = [
    *(setting for setting in SMALL if not setting.startswith("cluster.")),
    "rounds=400",
    "evaluation.every=400",
    "evaluation.max_restricted=20",
    "clients.min_updates=1",
    "defense.level=live",
    "probe.refresh_every=400",
    "probe.refresh_clients=3",
    "probe.refresh_min_auc=0",
    "cluster.clients_per_actor=6",
    f"cluster.server_label={LABEL}",
]


class LiveRun:
    """A run in a process of its own, on a cluster with a labelled server."""

    def __init__(self, folder: Path) -> None:
        labels = dict([LABEL.split("=")])
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "labels": labels})
        self.worker = self.cluster.add_node(num_cpus=1)
        self.path, self._log = folder / "run", folder / "log"
        address = f"cluster.address={self.cluster.address}"
        self.driver = start_run([*SETTINGS, address, "--output", str(self.path)], self._log)

    def order(self, *words: str) -> None:
        command = [sys.executable, "-m", "cluster", *words, "--address", self.cluster.address]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def rounds(self) -> list[set[str]]:
        """Clients that took part, by committed round."""
        if not (self.path / "rounds.parquet").exists():
            return []
        taken: dict[int, set[str]] = {}
        for row in pq.read_table(self.path / "rounds.parquet").to_pylist():
            taken.setdefault(row["round"], set()).update([row["client_id"]] if row["admitted"] else [])
        return [taken[index] for index in sorted(taken)]

    def wait_for_clients(self, count: int) -> int:
        """Wait for a round with so many clients; returns the index of the first since now."""
        begun = len(self.rounds())
        wait_until(lambda: any(len(clients) == count for clients in self.rounds()[begun:]) or self.ended, 90, f"{count} clients")
        assert not self.ended, self.log
        return next(index for index, clients in enumerate(self.rounds()) if index >= begun and len(clients) == count)

    @property
    def ended(self) -> bool:
        return self.driver.poll() is not None

    @property
    def log(self) -> str:
        return self._log.read_text()

    def processes_on(self, node, kind: str) -> list[psutil.Process]:
        """Actors of a kind on a node."""
        raylet = node.all_processes["raylet"][0].process.pid
        return [process for process in actor_processes(kind) if raylet in [parent.pid for parent in process.parents()]]

    def close(self) -> None:
        if not self.ended:
            self.driver.kill()
        self.cluster.shutdown()


@pytest.fixture
def live(tmp_path):
    run = LiveRun(tmp_path)
    yield run
    run.close()


def test_clients_come_and_go_with_the_room_there_is_and_nobody_waits_for_those_without(live):
    live.wait_for_clients(4)
    head = live.cluster.head_node
    kinds = ("probe", "aggregator", "evaluation", "client")
    assert {kind: len(live.processes_on(head, kind)) for kind in kinds} == dict.fromkeys(kinds, 1)
    assert len(live.processes_on(live.worker, "client")) == 1
    live.order("scale", "12")
    live.wait_for_clients(6)
    assert "6 clients are pending until there is room for more actors: " in live.log
    second = live.cluster.add_node(num_cpus=1)
    joined = len(live.rounds())
    assert live.wait_for_clients(12) <= joined + 2
    assert "there is room for every client" in live.log
    live.order("scale", "6")
    live.wait_for_clients(6)
    live.cluster.remove_node(second, allow_graceful=False)
    lost = live.wait_for_clients(6)
    live.order("stop")
    assert live.driver.wait(60) == 0, live.log
    rounds = live.rounds()
    assert max(map(len, rounds)) == 12
    assert all(clients <= {f"client-{i:03d}" for i in range(6)} for clients in rounds[lost:])
    assert len(set().union(*(clients for clients in rounds if len(clients) == 6))) > 6  # the draw takes turns


def test_a_file_that_appears_in_a_watched_directory_makes_its_client_a_member(local_ray, base_config, tmp_path):
    data, events = tmp_path / "clients", []
    rows = [{"instruction": f"count to {number}", "response": "1 2 3"} for number in range(8)]
    for name in ("a", "b"):
        write_jsonl(data / f"{name}.jsonl", rows)

    class Arrival(RunCallback):
        def round_started(self, round_index, client_ids):
            events.append((round_index, *client_ids))
            if round_index == 0:
                write_jsonl(data / "0-late.jsonl", rows)
                (data / "torn.parquet").write_bytes(b"PAR1")
            if round_index == 2:
                (data / "torn.parquet").unlink()

        def order_refused(self, why):
            events.append(why)

    overrides = [f"model.path={base_config.path}", f"data.path={data}", "data.watch=true", "defense.level=none", "rounds=3"]
    overrides += ["clients.count=2", "clients.malicious=0", "training.steps=1", "cluster.client_actors=1"]
    result = Federation(load_config(None, overrides), tmp_path / "run", Arrival()).run()
    assert events[:2] == [(index, "client-000", "client-001") for index in (0, 1)]  # nobody joins with half of its files
    assert "torn.parquet" in events[2]
    assert events[3:] == [(2, "client-000", "client-001", "client-002")]
    (change,) = result.summary["changes"]
    assert change["round"] == 2
    assert change["order"].startswith("join client-002: ")
    assert change["order"].endswith("0-late.jsonl")
    resumed = Federation.resume(result.path, from_round=2).run()
    assert resumed.summary["adapter_sha256"] == result.summary["adapter_sha256"]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
