"""cluster/round/scores.py on a probe that reads figures: who is scored with whom changes nothing, even when a delta is lost."""

import time

import pytest
import ray
from ray.exceptions import ObjectLostError

from actors.messages import ProbeScore
from cluster.round.scores import Scores
from tests.chaos import wait_until


@ray.remote(num_cpus=0)
class Reading:
    """The score of a delta is the figure in it; remembers how many it was asked about at once."""

    def __init__(self) -> None:
        self.calls = []

    def score(self, client_id: str, payload: bytes) -> ProbeScore:
        return self.score_batch([client_id], payload)[0]

    def score_batch(self, client_ids, *payloads: bytes) -> list[ProbeScore]:
        self.calls.append(len(payloads))
        return [ProbeScore(client_id=i, probability=float(p)) for i, p in zip(client_ids, payloads, strict=True)]

    def after(self, seconds: float) -> bytes:
        time.sleep(seconds)
        return b"0.5"

    def own(self, payload: bytes) -> list[ray.ObjectRef]:
        return [ray.put(payload)]

    def asked(self) -> list[int]:
        return self.calls


@pytest.fixture
def probe(local_ray):
    made = Reading.remote()
    yield made
    ray.kill(made)


def lost() -> ray.ObjectRef:
    """A reference to what an actor owned that has died."""
    owner = Reading.remote()
    (reference,) = ray.get(owner.own.remote(b"0.5"))
    ray.kill(owner)
    wait_until(lambda: is_lost(reference), 30, "the end of an object's owner")
    return reference


def is_lost(reference: ray.ObjectRef) -> bool:
    try:
        ray.get(reference)
    except ObjectLostError:
        return True
    return False


def probabilities(scores: Scores, client_id: str) -> list[float]:
    there, late = scores.wait(client_id, 30.0)
    assert not late
    return [score.probability for score in ray.get(there)]


def test_what_came_together_is_scored_in_one_call(probe):
    scores = Scores(probe)
    scores.ask(["a", "b", "a"], [ray.put(b"0.25"), ray.put(b"0.5"), ray.put(b"0.75")])
    scores.ask(["b"], [ray.put(b"1")])
    assert probabilities(scores, "a") == [0.25, 0.75]
    assert probabilities(scores, "b") == [0.5, 1.0]
    assert scores.wait("nobody", 0.0) == ([], [])
    assert ray.get(probe.asked.remote()) == [3, 1]


def test_a_lost_delta_costs_its_own_client_and_nobody_who_was_scored_with_it(probe):
    scores = Scores(probe)
    scores.ask(["a", "gone", "b"], [ray.put(b"0.25"), lost(), ray.put(b"0.75")])
    scores.ask(["a"], [ray.put(b"1")])
    assert probabilities(scores, "a") == [0.25, 1.0]
    assert probabilities(scores, "b") == [0.75]
    with pytest.raises(ObjectLostError):
        probabilities(scores, "gone")


def test_a_call_that_fails_of_anything_else_is_not_repeated(probe):
    scores = Scores(probe)
    scores.ask(["a", "b"], [ray.put(b"0.25"), ray.put(b"no figure")])
    for client_id in ("a", "b"):
        with pytest.raises(ValueError, match="no figure"):
            probabilities(scores, client_id)
    assert ray.get(probe.asked.remote()) == [2]


def test_what_is_not_there_in_time_is_late(probe):
    scores, there = Scores(probe), ray.put(1.0)
    late = probe.score.remote("a", probe.after.remote(2.0))
    scores.add("a", there)
    scores.add("a", late)
    assert scores.wait("a", 0.0) == ([there], [late])
    assert scores.wait("a", 30.0) == ([there, late], [])
