"""Runs in which random parts are killed at random moments: `python -m tests.benchmarks.faults --kills 30`.

A head and a worker node on this machine, the driver a process of its own. Every run must finish, no round may be lost or
counted twice, and the adapter must be that of a run in which nothing died. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from tests.chaos import TITLES, actor_processes, committed_rounds, start_run, wait_until

KINDS = (*TITLES, "node", "driver")
ROUNDS = 12
SETTINGS = (
    f"rounds={ROUNDS}",
    "clients.count=4",
    "clients.malicious=1",
    "clients.on_client_loss=retry_round",
    "defense.level=shadow+canary",
    "training.steps=8",
    "training.batch_size=8",
    "data.samples_per_client=40",
    "evaluation.every=3",
    "evaluation.max_restricted=60",
    "evaluation.max_benign=60",
    "cluster.client_actors=2",
)
_COMMIT_TIMEOUT_S = 180.0


class Chaos:
    """A small cluster, one run on it, and what is killed of both."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self._node = self._cluster.add_node(num_cpus=1)
        self._driver: subprocess.Popen | None = None
        self._run, self._log = Path(), Path()

    def start(self, run: Path) -> None:
        """Start a run in the folder."""
        self._run, self._log = run, run.with_suffix(".log")
        address = f"cluster.address={self._cluster.address}"
        self._driver = start_run([*SETTINGS, address, "--output", str(run)], self._log)

    def wait_for_commit(self, rounds_done: int) -> float:
        """Wait until so many rounds are committed; returns the moment."""
        until = lambda: committed_rounds(self._run) >= rounds_done or self._driver.poll() is not None  # noqa: E731
        wait_until(until, _COMMIT_TIMEOUT_S, f"the commit of round {rounds_done} in {self._run}")
        if committed_rounds(self._run) < rounds_done:
            raise RuntimeError(f"the driver ended with {self._driver.returncode}: {self._log.read_text()[-2000:]}")
        return time.monotonic()

    def kill(self, kind: str) -> bool:
        """Kill one of a kind with SIGKILL; False when none was alive."""
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
            self._driver = start_run(["--resume", str(self._run)], self._log)
            return True
        if kind == "node":
            self._cluster.remove_node(self._node, allow_graceful=False)
            self._node = self._cluster.add_node(num_cpus=1, wait=False)
            return True
        processes = sorted(actor_processes(kind), key=lambda process: process.pid)
        if processes:
            self.rng.choice(processes).kill()
        return bool(processes)

    def finish(self) -> dict:
        """Wait for the run and return its summary."""
        if self._driver.wait(_COMMIT_TIMEOUT_S):
            raise RuntimeError(f"the run failed: {self._log.read_text()[-2000:]}")
        return json.loads((self._run / "summary.json").read_text())

    def close(self) -> None:
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
        self._cluster.shutdown()


def main(kills: int, seed: int) -> bool:
    """Print progress and the JSON line; whether nothing was lost, doubled or changed."""
    result = {"kills": 0, "runs": 0, "rounds_lost": 0, "rounds_duplicated": 0, "hash_mismatches": 0}
    recovery: dict[str, list[float]] = defaultdict(list)
    chaos, began = Chaos(seed), time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            chaos.start(Path(folder) / "undisturbed")
            first = chaos.wait_for_commit(2)
            round_s = (chaos.wait_for_commit(ROUNDS - 1) - first) / (ROUNDS - 3)
            expected = chaos.finish()["adapter_sha256"]
            print(f"undisturbed: {round_s:.2f} s a round", flush=True)
            while result["kills"] < kills:
                run = Path(folder) / f"run-{result['runs']}"
                _disturbed_run(chaos, run, round_s, kills, result, recovery, began)
                _check(run, chaos.finish(), expected, result)
    finally:
        chaos.close()
    result["recovery_s"] = {kind: round(statistics.median(values), 2) for kind, values in sorted(recovery.items())}
    print(json.dumps(result))
    return not (result["rounds_lost"] or result["rounds_duplicated"] or result["hash_mismatches"])


def _disturbed_run(chaos: Chaos, run: Path, round_s: float, kills: int, result: dict, recovery: dict, began: float) -> None:
    """A run in which, after most commits, something is killed within the next round."""
    chaos.start(run)
    chaos.wait_for_commit(1)
    while (done := committed_rounds(run)) < ROUNDS - 2 and result["kills"] < kills:
        kind = KINDS[result["kills"] % len(KINDS)]
        time.sleep(chaos.rng.uniform(0, round_s))
        killed = time.monotonic()
        if not chaos.kill(kind):
            continue
        result["kills"] += 1
        done = max(done, committed_rounds(run))
        recovered = chaos.wait_for_commit(done + 1) - killed
        recovery[kind].append(max(0.0, recovered - round_s))
        left = (time.monotonic() - began) / result["kills"] * (kills - result["kills"])
        print(f"kill {result['kills']} of {kills}: {kind}, {recovered:.1f} s to the next commit; {left:.0f} s left", flush=True)


def _check(run: Path, summary: dict, expected: str, result: dict) -> None:
    rows = Counter((row["round"], row["client_id"]) for row in pq.read_table(run / "rounds.parquet").to_pylist())
    result["runs"] += 1
    result["rounds_lost"] += ROUNDS - len({round_index for round_index, _ in rows})
    result["rounds_duplicated"] += len({round_index for (round_index, _), count in rows.items() if count > 1})
    result["hash_mismatches"] += summary["adapter_sha256"] != expected


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(0 if main(arguments.kills, arguments.seed) else 1)
