"""Runs in which random parts fail at random moments: `python -m tests.benchmarks.faults --kills 60`.

A head and a worker node on this machine, the driver a process of its own. Every run must finish, no round may be lost or counted
twice, and the adapter must be that of a run in which nothing failed. The last line is a JSON object. Kinds of faults, in turn
(`--kinds "memory,stop control"` takes some):

- an actor's name: one of its kind is killed with SIGKILL.
- `stop` and an actor's name: it gets SIGSTOP, as a process that hangs. Deadlines are short here. A client that hangs is late, and
  late clients are dropped by design: the adapter of such a run is not compared.
- `node`, `driver`: a node's processes, or the driver, are killed; the driver is started again with `--resume`.
- `memory`: Ray's own memory monitor kills an actor, whichever it chooses. Its threshold lies above what the run takes, and
  another process takes the rest until an actor is gone. So this is what Ray does when memory is short, and no picture of it.
- `terminate`: the driver gets SIGTERM, must end with 143 and name the command by which it is then resumed.
- `second driver`: `--resume` on the directory of the live run must be refused with exit code 2, and the run goes on.
- `full disk`: no file of the driver may grow beyond some KiB (RLIMIT_FSIZE), so that its next save fails. It must end with exit
  code 2 and be resumable from the last commit.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from tests.chaos import actor_processes, committed_rounds, start_run, wait_until

ACTORS = ("client", "probe", "canary", "validation", "aggregator", "colluders", "evaluation", "control")
ROUNDS = 12
SETTINGS = (
    f"rounds={ROUNDS}",
    "clients.count=5",
    "clients.malicious=2",
    "clients.attack=mimic",
    "clients.on_client_loss=retry_round",
    "clients.timeout_s=40",
    "defense.level=shadow+canary+zeno",
    "defense.skip_below=0.05",  # zeno weighs few clients of a run this short
    "defense.canary.max_rise=0.5",
    "training.steps=8",
    "training.batch_size=8",
    "data.samples_per_client=40",
    "probe.timeout_s=20",
    "evaluation.every=3",
    "evaluation.max_restricted=60",
    "evaluation.max_benign=60",
    "evaluation.timeout_s=60",
    "cluster.client_actors=2",
    "cluster.call_timeout_s=20",
)
_COMMIT_TIMEOUT_S = 240.0
_RUN_BYTES = 8 << 30
"""More than the actors of a run take together: Ray's threshold lies so much above what is used when the campaign begins."""
_FILE_BYTES = 16 << 10
"""More than the log of a run, less than a checkpoint's adapter."""
_HOG = "import sys, time; taken = [bytes(1) * int(size) for size in sys.argv[1:]]; time.sleep(60)"


class Chaos:
    """A small cluster, one run on it, and what fails of both."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        memory = psutil.virtual_memory()
        self._most_bytes = memory.total - memory.available + _RUN_BYTES
        if self._most_bytes > 0.9 * memory.total:
            raise RuntimeError(f"the campaign needs {_RUN_BYTES >> 30} GiB of free memory, there are {memory.available >> 30}")
        watch = {"memory_usage_threshold": self._most_bytes / memory.total, "memory_monitor_refresh_ms": 500}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": watch})
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
            raise RuntimeError(f"the driver ended with {self._driver.returncode}: {self._end_of_log()}")
        return time.monotonic()

    def fail(self, kind: str) -> bool:
        """Let one of a kind fail; False when none was alive."""
        return FAULTS[kind](self)

    def signal_actor(self, kind: str, number: int) -> bool:
        processes = sorted(actor_processes(kind), key=lambda process: process.pid)
        if processes:
            self.rng.choice(processes).send_signal(number)
        return bool(processes)

    def kill_node(self) -> bool:
        self._cluster.remove_node(self._node, allow_graceful=False)
        self._node = self._cluster.add_node(num_cpus=1, wait=False)
        return True

    def kill_driver(self) -> bool:
        self._driver.kill()
        self._driver.wait()
        return self._resume()

    def terminate_driver(self) -> bool:
        self._driver.send_signal(signal.SIGTERM)
        self._expect_end(143, f"run --resume {self._run}")
        return self._resume()

    def start_second_driver(self) -> bool:
        log = self._run.with_suffix(".second.log")
        second = start_run(["--resume", str(self._run)], log)
        code = second.wait(_COMMIT_TIMEOUT_S)
        if code == 0 and self._driver.poll() == 0:  # the run had ended before the second driver looked
            return False
        if code != 2 or self._driver.poll() is not None:
            raise RuntimeError(
                f"a second driver ended with {code}, the first is {self._driver.poll()}: {log.read_text()[-2000:]}"
            )
        return True

    def fill_disk(self) -> bool:
        psutil.Process(self._driver.pid).rlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        self._expect_end(2, "")
        return self._resume()

    def short_of_memory(self) -> bool:
        """Take memory up to Ray's threshold until an actor is gone."""
        before = _run_processes()
        taken = psutil.virtual_memory()
        missing = self._most_bytes - (taken.total - taken.available)
        hog = subprocess.Popen([sys.executable, "-c", _HOG, str(max(0, missing) + (400 << 20))])
        try:
            wait_until(lambda: before - _run_processes(), 30, "a kill by Ray's memory monitor")
        finally:
            hog.kill()
            hog.wait()
        return True

    def finish(self) -> dict:
        """Wait for the run and return its summary."""
        if self._driver.wait(_COMMIT_TIMEOUT_S):
            raise RuntimeError(f"the run failed: {self._end_of_log()}")
        return json.loads((self._run / "summary.json").read_text())

    def close(self) -> None:
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
        self._cluster.shutdown()

    def _resume(self) -> bool:
        self._driver = start_run(["--resume", str(self._run)], self._log)
        return True

    def _expect_end(self, code: int, words: str) -> None:
        ended = self._driver.wait(_COMMIT_TIMEOUT_S)
        if ended != code or words not in self._end_of_log():
            raise RuntimeError(f"the driver ended with {ended}, not {code} and {words!r}: {self._end_of_log()}")

    def _end_of_log(self) -> str:
        return self._log.read_text()[-2000:]


FAULTS: dict[str, Callable[[Chaos], bool]] = {
    **{kind: lambda chaos, kind=kind: chaos.signal_actor(kind, signal.SIGKILL) for kind in ACTORS},
    **{f"stop {kind}": lambda chaos, kind=kind: chaos.signal_actor(kind, signal.SIGSTOP) for kind in ACTORS},
    "node": Chaos.kill_node,
    "driver": Chaos.kill_driver,
    "memory": Chaos.short_of_memory,
    "terminate": Chaos.terminate_driver,
    "second driver": Chaos.start_second_driver,
    "full disk": Chaos.fill_disk,
}
"""Kind -> lets it happen; False when there was nothing that could fail."""


def main(kills: int, seed: int, kinds: list[str]) -> bool:
    """Print progress and the JSON line; whether nothing was lost, doubled or changed."""
    result = {"kills": 0, "runs": 0, "rounds_lost": 0, "rounds_duplicated": 0, "hash_mismatches": 0, "late_clients": 0}
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
                _disturbed_run(chaos, run, round_s, kills, kinds, result, recovery, began)
                _check(run, chaos.finish(), expected, result)
    finally:
        chaos.close()
    result["recovery_s"] = {kind: round(statistics.median(values), 2) for kind, values in sorted(recovery.items())}
    print(json.dumps(result))
    return not (result["rounds_lost"] or result["rounds_duplicated"] or result["hash_mismatches"])


def _disturbed_run(
    chaos: Chaos, run: Path, round_s: float, kills: int, kinds: list[str], result: dict, recovery: dict, began: float
) -> None:
    """A run in which, after most commits, something fails within the next round."""
    chaos.start(run)
    chaos.wait_for_commit(1)
    while (done := committed_rounds(run)) < ROUNDS - 2 and result["kills"] < kills:
        kind = kinds[result["kills"] % len(kinds)]
        time.sleep(chaos.rng.uniform(0, round_s))
        failed = time.monotonic()
        if not chaos.fail(kind):
            continue
        result["kills"] += 1
        done = min(max(done, committed_rounds(run)), ROUNDS - 1)  # it may have come after the last round
        recovered = chaos.wait_for_commit(done + 1) - failed
        recovery[kind].append(max(0.0, recovered - round_s))
        left = (time.monotonic() - began) / result["kills"] * (kills - result["kills"])
        print(f"fault {result['kills']} of {kills}: {kind}, {recovered:.1f} s to the next commit; {left:.0f} s left", flush=True)


def _check(run: Path, summary: dict, expected: str, result: dict) -> None:
    rows = pq.read_table(run / "rounds.parquet").to_pylist()
    count = Counter((row["round"], row["client_id"]) for row in rows)
    late = sum((row["reason"] or "").startswith("late: ") for row in rows)
    result["runs"] += 1
    result["rounds_lost"] += ROUNDS - len({round_index for round_index, _ in count})
    result["rounds_duplicated"] += len({round_index for (round_index, _), number in count.items() if number > 1})
    result["hash_mismatches"] += not late and summary["adapter_sha256"] != expected
    result["late_clients"] += late


def _run_processes() -> set[int]:
    """Process ids of the living actors of the run."""
    return {process.pid for kind in ACTORS for process in actor_processes(kind)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(FAULTS), help="comma-separated")
    arguments = parser.parse_args()
    chosen = arguments.kinds.split(",")
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"unknown kinds {sorted(unknown)}; there are {', '.join(FAULTS)}")
    sys.exit(0 if main(arguments.kills, arguments.seed, chosen) else 1)
