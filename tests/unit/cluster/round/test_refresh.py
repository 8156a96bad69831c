"""cluster/round/refresh.py on a probe that only takes its time: what came in time is adopted, what came late never is."""

import time

import pytest
import ray

from actors.messages import ProbeRefresh
from cluster.errors import LostError
from cluster.round.refresh import Refresh


@ray.remote(num_cpus=0)
class Refitting:
    """Accepts every refit after `seconds`, and remembers whether it was told to adopt it."""

    def __init__(self, seconds: float, adopting_s: float = 0.0) -> None:
        self.seconds, self.adopting_s, self.adopted = seconds, adopting_s, False

    def refresh(self, learning_rate: float) -> ProbeRefresh:
        time.sleep(self.seconds)
        return ProbeRefresh(round=0, accepted=True, why=f"fitted at {learning_rate}")

    def adopt(self) -> None:
        time.sleep(self.adopting_s)
        self.adopted = True

    def has_adopted(self) -> bool:
        return self.adopted


@pytest.fixture
def make(local_ray):
    probes = []

    def make(*seconds: float):
        probes.append(Refitting.remote(*seconds))
        ray.get(probes[-1].has_adopted.remote())
        return probes[-1], Refresh(probes[-1], [], [], num_steps=1, timeout_s=2.0)

    yield make
    for probe in probes:
        ray.kill(probe)


def test_a_refit_in_time_is_adopted(make):
    probe, refresh = make(0.0)
    assert refresh.finish(0, 0.5) == ProbeRefresh(round=0, accepted=True, why="fitted at 0.5")
    assert ray.get(probe.has_adopted.remote())


def test_a_refit_that_misses_its_deadline_is_rejected_and_never_judges(make):
    probe, refresh = make(3.0)
    refused = ProbeRefresh(round=0, accepted=False, why="refitting the probe took longer than 2 s")
    assert refresh.finish(0, 0.5) == refused
    assert not ray.get(probe.has_adopted.remote())


def test_a_probe_that_does_not_say_whether_it_adopted_is_lost(make):
    _, refresh = make(0.0, 3.0)
    with pytest.raises(LostError, match="the probe is gone: adopting the refitted probe took longer than 2 s"):
        refresh.finish(0, 0.5)
