"""Signals of a command, on real processes: it unwinds, says how to go on, ends with the code; a second ends it at once."""

import signal
import subprocess
import sys

import pytest

CODE = """
import sys, time
from cluster import interruption
interruption._TWICE_S, interruption._UNWINDING_S = 0.3, {patience}
with interruption.unwinding_on_signals(lambda: print("farewell", flush=True)):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("unwinding", flush=True)
        time.sleep({seconds})
        print("unwound", flush=True)
"""


@pytest.fixture
def start():
    made = []

    def start(seconds: float, patience: float = 30.0) -> subprocess.Popen:
        code = CODE.format(seconds=seconds, patience=patience)
        made.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert made[-1].stdout.readline() == "ready\n"
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_unwinds_and_then_says_farewell(start, number, code):
    process = start(0.5)
    process.send_signal(number)
    process.send_signal(number)  # as `timeout` does: one request
    assert process.communicate(timeout=20)[0] == "unwinding\nunwound\nfarewell\n"
    assert process.returncode == code  # the command line turns KeyboardInterrupt into 130


def test_a_second_signal_ends_the_process_at_once(start):
    process = start(60.0)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "unwinding\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143


def test_what_hangs_as_it_unwinds_is_ended_with_the_same_farewell(start):
    process = start(60.0, patience=0.5)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "unwinding\nfarewell\n"
    assert process.returncode == 143
