"""cluster/round/refresh.py on a probe that only takes its time: what came in time is adopted, what came late never is."""

import time

import pytest
import ray

from actors.data.references import Reference
from actors.messages import ProbeRefresh, Reading
from cluster.errors import LostError
from cluster.round.local_rounds import Delivery
from cluster.round.refresh import Refresh, reference_tasks
from probe.store import ReferenceLabel

LABELS = {name: ReferenceLabel(client=name, malicious=name == "bad", family="vault", source="world") for name in ("bad", "good")}
REFERENCES = [Reference(label=label, files=(f"{name}.parquet",)) for name, label in LABELS.items()]
TASKS = reference_tasks(REFERENCES, 3, feature="first_layer_b", rate=0.5, seed=0, freeze_a=False)


SCORED = {"last_step_probability": {"benign": [0.1], "malicious": [0.9]}}


@ray.remote(num_cpus=0)
class Server:
    """Aggregator and canary of a round. It cannot read an update that says b"junk", nor measure one that says b"odd"."""

    @ray.method(num_returns=2)
    def read_reference(self, client_id: str, update: bytes):
        if update == b"junk":
            raise ValueError(f"reference client {client_id}: junk")
        return client_id, update

    def measure(self, update) -> Reading:
        if update == b"odd":
            raise ValueError("odd")
        return Reading(client_id="", signal="canary", values={"canary_rise": len(update)})


@ray.remote(num_cpus=0)
class Refitting:
    """Accepts every refit after `seconds`, and remembers what it observed and whether it was told to adopt the refit."""

    def __init__(self, seconds: float, adopting_s: float = 0.0) -> None:
        self.seconds, self.adopting_s, self.adopted, self.observed = seconds, adopting_s, False, []

    def observe(self, labels, *payloads) -> None:
        self.observed += [(label.client, label.malicious, payload) for label, payload in zip(labels, payloads, strict=True)]

    def refresh(self, learning_rate: float, rate: float) -> ProbeRefresh:
        time.sleep(self.seconds)
        why = f"fitted at {learning_rate} on {len(self.observed)}"
        return ProbeRefresh(round=0, outcome="accepted", why=why, scored=SCORED)

    def adopt(self) -> None:
        time.sleep(self.adopting_s)
        self.adopted = True

    def seen(self) -> tuple[bool, list]:
        return self.adopted, self.observed


@pytest.fixture
def make(local_ray):
    probes = []

    def make(*seconds: float, keep_all: bool = False):
        probes.extend([server := Server.remote(), Refitting.remote(*seconds)])
        ray.get([probes[-1].seen.remote(), server.measure.remote(b"")])
        settings = {"num_steps": 1, "rate": 0.01, "timeout_s": 2.0, "keep_all": keep_all}
        return probes[-1], Refresh(probes[-1], server, [server], REFERENCES, TASKS, **settings)

    yield make
    for probe in probes:
        ray.kill(probe)


def test_a_refit_in_time_is_adopted_with_what_the_reference_clients_sent(make):
    probe, refresh = make(0.0)
    refresh.step_deltas([(task, ray.put(task.client_id.encode())) for task in TASKS])
    for job in refresh.jobs(ray.put(b"adapter")):
        job.receiver.deliver(Delivery(job.task, ray.put(b"update")))
    refreshed = refresh.finish(0, 0.5)
    assert refreshed == ProbeRefresh(round=0, outcome="accepted", why="fitted at 0.5 on 2", scored=SCORED)
    assert ray.get(probe.seen.remote()) == (True, [("bad", True, b"bad"), ("good", False, b"good")])


def test_a_refit_that_misses_its_deadline_is_rejected_and_never_judges(make):
    probe, refresh = make(3.0)
    refused = ProbeRefresh(round=0, outcome="rejected", why="refitting the probe took longer than 2 s")
    assert refresh.finish(0, 0.5) == refused
    assert refresh.measured(refused) is None
    assert ray.get(probe.seen.remote()) == (False, [])


def test_a_probe_that_does_not_say_whether_it_adopted_is_lost(make):
    _, refresh = make(0.0, 3.0)
    with pytest.raises(LostError, match="adopting the refitted probe took longer than 2 s"):
        refresh.finish(0, 0.5)


def test_the_first_reference_client_that_fails_costs_the_refit_and_a_lost_one_the_round_where_it_keeps_all(make):
    probe, refresh = make(0.0)
    refresh.deliver(Delivery(TASKS[1], ray.put(b"update")))
    refresh.deliver(Delivery(TASKS[0], failure="client_lost: its node died", lost=True))
    refused = ProbeRefresh(round=3, outcome="rejected", why="reference client good: 0 step deltas of 1 steps")
    assert refresh.finish(3, 0.5) == refused
    assert refresh.measured(refused) is None
    assert ray.get(probe.seen.remote()) == (False, [])
    with pytest.raises(LostError, match=r"^bad client_lost: its node died$"):
        make(0.0, keep_all=True)[1].deliver(Delivery(TASKS[0], failure="client_lost: its node died", lost=True))


def ended(refresh: Refresh, **updates: bytes) -> None:
    """Every reference client delivers its step and its update."""
    for task in TASKS:
        refresh.step_deltas([(task, ray.put(b"step"))])
        refresh.deliver(Delivery(task, ray.put(updates.get(task.client_id, b"update"))))


def test_every_reference_update_is_measured_as_a_clients_is(make):
    _, refresh = make(0.0)
    ended(refresh, bad=b"longer update")
    measured = refresh.measured(refresh.finish(0, 0.5))
    assert measured.scored == SCORED
    assert [(item.client_id, item.malicious, ray.get(item.update)) for item in measured.updates] == [
        ("bad", True, b"longer update"),
        ("good", False, b"update"),
    ]
    assert [item.readings[0].values for item in measured.updates] == [{"canary_rise": 13}, {"canary_rise": 6}]


def test_a_probe_that_was_rejected_takes_its_scores_with_it_and_nothing_else(make):
    _, refresh = make(0.0)
    ended(refresh)
    refresh.finish(0, 0.5)
    measured = refresh.measured(ProbeRefresh(round=0, outcome="rejected", why="its figures"))
    assert (len(measured.updates), measured.scored) == (2, {})


@pytest.mark.parametrize(("update", "why"), [(b"junk", "reference client good: junk"), (b"odd", "odd")])
def test_an_update_that_cannot_be_read_or_measured_costs_the_refresh(make, update, why):
    _, refresh = make(0.0)
    ended(refresh, good=update)
    refused = refresh.finish(0, 0.5)
    assert (refused.outcome, refresh.measured(refused)) == ("rejected", None)
    assert why in refused.why
