"""cluster/round/relay.py on real actors without a model: what is admitted, scored and measured, and what is lost on the way."""

import time

import pytest
import ray
from ray.exceptions import ObjectLostError

from actors.errors import ClientTrainingError
from actors.messages import Admission, AdmittedUpdate, ProbeScore, Reading, TrainTask
from cluster.errors import LostError
from cluster.reporting.callback import RunCallback
from cluster.round.local_rounds import Delivery
from cluster.round.relay import Relay, RelaySettings
from tests.chaos import wait_until


@ray.remote(num_cpus=0)
class Server:
    """Aggregator, probe and canary in one: remembers what it was asked. An update is its client's number n; a negative one is
    refused, 0 cannot be scored, 3 cannot be measured."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @ray.method(num_returns=2)
    def admit(self, client_id, update, last_delta):
        self.calls.append(f"admit {client_id} {last_delta.decode() if last_delta else None}")
        is_admitted = float(update) >= 0
        admitted = AdmittedUpdate(client_id=client_id, num_samples=8, state=float(update)) if is_admitted else None
        return Admission(client_id=client_id, admitted=is_admitted, reason=None if is_admitted else "too long"), admitted

    def score(self, client_id, payload):
        self.calls.append(f"score {client_id}")
        return ProbeScore(client_id=client_id, branch="real", step=1, probability=float(payload))

    def score_update(self, update):
        if update is None:
            return None
        self.calls.append(f"score update of {update.client_id}")
        return ProbeScore(client_id=update.client_id, branch="update", step=1, probability=1 / update.state)

    def measure(self, update):
        if update is None:
            return None
        self.calls.append(f"measure {update.client_id}")
        if update.state == 3:
            raise ValueError("no loss")
        return Reading(client_id=update.client_id, signal="canary", values={"rise": update.state})

    def fails(self):
        raise ClientTrainingError("ValueError: no rows\ntraceback of the client")

    def sleep(self, seconds):
        time.sleep(seconds)

    def own(self, payload):
        return [ray.put(payload)]

    def asked(self):
        return self.calls

    def forget(self):
        self.calls = []


class Log(RunCallback):
    def __init__(self) -> None:
        self.done: list[str] = []
        self.reasons: list[str | None] = []
        self.failed: list[tuple[str, str]] = []

    def client_done(self, client_id, why=None):
        self.done.append(client_id)
        self.reasons.append(why)

    def client_failed(self, client_id, traceback):
        self.failed.append((client_id, traceback))


@pytest.fixture(scope="module")
def started_server(local_ray):
    made = Server.remote()
    yield made
    ray.kill(made)


@pytest.fixture
def server(started_server):
    started_server.forget.remote()
    return started_server


@pytest.fixture
def probe(local_ray):
    """One beside the server, which has started."""
    made = Server.remote()
    ray.get(made.asked.remote())
    yield made
    ray.kill(made)


@pytest.fixture(scope="module")
def lost_update(local_ray):
    """A reference to what an actor owned that has died."""
    owner = Server.remote()
    (reference,) = ray.get(owner.own.remote(b"1"))
    ray.kill(owner)

    def is_lost() -> bool:
        try:
            ray.get(reference)
        except ObjectLostError:
            return True
        return False

    wait_until(is_lost, 30, "the end of an object's owner")
    return reference


def relay(
    server, log=None, *, probe=None, keep_all=False, probe_timeout_s=30.0, scores_updates=True, holds_updates=False, measures=True
) -> Relay:
    """Of a round in which `server` is everything, but for the probe where another is given."""
    settings = RelaySettings(probe_timeout_s=probe_timeout_s, call_timeout_s=30.0, keep_all=keep_all)
    flags = {"scores_updates": scores_updates, "holds_updates": holds_updates}
    return Relay(server, probe or server, {"canary": server} if measures else {}, settings, log or Log(), **flags)


def task(client_id: str) -> TrainTask:
    return TrainTask(
        client_id=client_id, round_index=0, base_version=0, files=(), learning_rate=0.1, seed=0, probe_feature="first_layer_b"
    )


def delivery(client_id: str, update, last_delta: bytes | None = None) -> Delivery:
    reference = update if isinstance(update, ray.ObjectRef) else ray.put(update)
    return Delivery(task(client_id), reference, ray.put(last_delta) if last_delta else None)


def said(evidence) -> dict[str, tuple]:
    """Client id -> probabilities or failures of its scores, and what was measured."""
    return {
        item.client_id: (
            *(score.failure or score.probability for score in item.scores),
            *(reading.values["rise"] for reading in item.readings),
        )
        for item in evidence
    }


def test_an_update_is_admitted_once_and_what_others_read_is_the_admitted_one(server):
    log = Log()
    made = relay(server, log)
    made.step_deltas([(task("b"), ray.put(b"0.25"))])
    made.deliver(delivery("b", b"2", b"last of b"))
    made.deliver(delivery("a", b"4"))
    evidence, absent = made.collect()
    assert said(evidence) == {"a": (0.25, 4.0), "b": (0.25, 0.5, 2.0)}
    assert [item.client_id for item in evidence] == ["a", "b"]
    assert [ray.get(item.update).state for item in evidence] == [4.0, 2.0]
    assert absent == {}
    assert log.done == ["b", "a"]
    assert log.reasons == [None, None]
    asked = ray.get(server.asked.remote())
    assert [call for call in asked if call.startswith("admit")] == ["admit b last of b", "admit a None"]
    assert len(asked) == len(set(asked))  # nothing twice


def test_an_update_that_the_aggregator_refuses_is_neither_evidence_nor_absent(server):
    made = relay(server)
    made.deliver(delivery("a", b"-1"))
    made.deliver(delivery("b", b"1"))
    evidence, absent = made.collect()
    assert said(evidence) == {"b": (1.0, 1.0)}
    assert absent == {}
    assert "measure a" not in ray.get(server.asked.remote())


def test_a_clients_own_error_is_reported_with_its_traceback_and_spoils_no_other(server):
    log = Log()
    made = relay(server, log, keep_all=True)
    made.deliver(delivery("a", server.fails.remote()))
    made.deliver(delivery("b", b"1"))
    evidence, absent = made.collect()
    assert said(evidence) == {"b": (1.0, 1.0)}
    assert absent == {"a": "client_failed: ValueError: no rows"}
    assert log.failed == [("a", "ValueError: no rows\ntraceback of the client")]


def test_a_lost_update_drops_its_client_unless_the_round_keeps_all(server, lost_update):
    made = relay(server)
    made.deliver(delivery("a", lost_update))
    made.deliver(delivery("b", b"1"))
    evidence, absent = made.collect()
    assert said(evidence) == {"b": (1.0, 1.0)}
    assert absent.keys() == {"a"}
    assert absent["a"].startswith("client_lost: ")
    keeping = relay(server, keep_all=True)
    with pytest.raises(LostError, match=r"^a client_lost: "):
        keeping.deliver(delivery("a", lost_update))
        keeping.collect()


def test_clients_that_end_without_an_update_are_absent_and_a_lost_one_ends_a_round_that_keeps_all(server):
    late = Delivery(task("late"), failure="late: no update")
    lost = Delivery(task("lost"), failure="client_lost: its node died", lost=True)
    log = Log()
    made = relay(server, log)
    made.deliver(late)
    made.deliver(lost)
    assert made.collect() == ([], {"late": "late: no update", "lost": "client_lost: its node died"})
    assert log.done == ["late", "lost"]
    assert log.reasons == ["late: no update", "client_lost: its node died"]
    keeping = relay(server, keep_all=True)
    keeping.deliver(late)
    with pytest.raises(LostError, match=r"^lost client_lost: its node died$"):
        keeping.deliver(lost)


def test_a_score_that_fails_is_a_failure_and_costs_no_other_client(server):
    made = relay(server)
    made.deliver(delivery("a", b"0"))
    made.deliver(delivery("b", b"1"))
    assert said(made.collect()[0]) == {"a": ("probe_failed: float division by zero", 0.0), "b": (1.0, 1.0)}


def test_a_reading_that_fails_is_a_failure_of_its_own_signal(server):
    made = relay(server)
    made.deliver(delivery("a", b"3"))
    (evidence,), _ = made.collect()
    assert [(reading.signal, reading.failure) for reading in evidence.readings] == [("canary", "canary_failed: no loss")]
    assert [score.failure for score in evidence.scores] == [None]


def test_a_score_that_is_late_is_a_failure(server, probe):
    made = relay(server, probe=probe, probe_timeout_s=1.0)
    probe.sleep.remote(4.0)
    made.deliver(delivery("a", b"1"))
    assert said(made.collect()[0]) == {"a": ("probe_failed: not there within probe.timeout_s=1 s", 1.0)}


def test_updates_wait_for_a_probe_that_is_refitted_and_are_scored_in_order_of_id(server):
    made = relay(server, holds_updates=True)
    for client_id in ("b", "c", "a"):
        made.deliver(delivery(client_id, b"2"))
    asked = ray.get(server.asked.remote())
    assert not any(call.startswith("score") for call in asked)
    made.score_updates()
    assert said(made.collect()[0]) == dict.fromkeys("abc", (0.5, 2.0))
    scored = [call for call in ray.get(server.asked.remote()) if call.startswith("score")]
    assert scored == [f"score update of {client_id}" for client_id in "abc"]


def test_updates_are_not_scored_where_no_level_reads_it(server):
    made = relay(server, scores_updates=False)
    made.deliver(delivery("a", b"2"))
    made.score_updates()
    assert said(made.collect()[0]) == {"a": (2.0,)}


def test_a_round_whose_aggregator_or_probe_is_gone_is_lost(server, probe):
    ray.kill(probe)
    with pytest.raises(ray.exceptions.RayActorError):  # the end of an actor takes time to be known
        while True:
            ray.get(probe.asked.remote())
    whole = {"the aggregator": relay(probe, probe=server), "the probe or an actor with server data": relay(server, probe=probe)}
    for lost, made in whole.items():
        with pytest.raises(LostError, match=rf"^{lost} is gone: "):
            made.deliver(delivery("a", b"1"))
            made.collect()


def test_scores_that_are_given_again_replace_the_first_and_readings_stay(server):
    made = relay(server)
    made.deliver(delivery("a", b"2"))
    assert said(made.collect()[0]) == {"a": (0.5, 2.0)}
    made.score_updates()
    assert said(made.collect()[0]) == {"a": (0.5, 2.0)}
    assert [call for call in ray.get(server.asked.remote()) if call.startswith("score")] == ["score update of a"] * 2


def test_an_actor_can_be_asked_once_the_round_is_collected_and_what_fails_is_a_failure(server):
    made = relay(server, measures=False)
    for client_id, update in (("b", b"3"), ("a", b"2"), ("c", b"-1")):
        made.deliver(delivery(client_id, update))
    evidence, _ = made.collect()
    assert [item.readings for item in evidence] == [(), ()]
    first, second = made.read("canary", server)
    assert first == Reading(client_id="a", signal="canary", values={"rise": 2.0})
    assert (second.client_id, second.failure) == ("b", "canary_failed: no loss")
