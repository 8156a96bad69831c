"""Peak memory is the sum over the process tree."""

import subprocess
import sys
import time

from cluster.workers.memory import PeakMemory, tree_pss_bytes


def test_memory_of_a_child_counts():
    before = tree_pss_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(200_000_000); print(1, flush=True); input()"], stdin=-1, stdout=-1
    )
    try:
        child.stdout.readline()
        assert tree_pss_bytes() - before > 190e6
    finally:
        child.kill()
        child.wait()


def test_the_peak_outlives_the_memory():
    memory = PeakMemory(interval_s=0.01)
    memory.start()
    block = bytearray(300_000_000)
    time.sleep(1.5)
    held = tree_pss_bytes()
    del block
    assert memory.stop() >= 0.95 * held / 1e6


def test_a_peak_of_a_second_is_seen():
    before = tree_pss_bytes()
    memory = PeakMemory(interval_s=0.05)
    memory.start()
    time.sleep(1)
    block = bytearray(300_000_000)
    time.sleep(1)
    del block
    time.sleep(1)
    assert memory.stop() >= (before + 280e6) / 1e6
