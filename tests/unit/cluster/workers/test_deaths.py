"""What became of a call: real actors that raise, die, hang or cannot be placed, and every error class that this Ray has."""

import os
import signal
import time

import pytest
import ray
from ray import exceptions
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import DataError
from cluster.errors import DeadlineError, LostError
from cluster.workers.deaths import answer_of, fate_of
from tests.chaos import wait_until


class Unpicklable(RuntimeError):
    def __init__(self) -> None:
        super().__init__("odd")
        self.lock = (i for i in ())


@ray.remote(num_cpus=0)
class Actor:
    def pid(self) -> int:
        return os.getpid()

    def take(self, value) -> int:
        return 1

    def fail(self):
        raise DataError("row 3\nand more")

    def fail_oddly(self):
        raise Unpicklable

    def fail_streaming(self):
        yield 1
        raise DataError("row 3")

    def read(self, refs) -> int:
        return ray.get(refs[0])

    def own(self) -> list:
        return [ray.put(b"1")]

    def die(self):
        os._exit(1)


@pytest.fixture
def start(local_ray):
    made = []

    def start(**options):
        made.append(Actor.options(**options).remote())
        return made[-1]

    yield start
    for actor in made:
        ray.kill(actor)


def is_lost(reference) -> bool:
    try:
        ray.get(reference)
    except RayError:
        return True
    return False


def fate(reference) -> str:
    with pytest.raises(RayError) as caught:
        ray.get(reference, timeout=30)
    return fate_of(caught.value)


def test_what_the_called_code_raises_is_no_death_however_far_it_travels(start):
    actor, other = start(), start()
    failed = actor.fail.remote()
    *_, end = actor.fail_streaming.options(num_returns="streaming").remote()
    references = [failed, other.take.remote(failed), other.take.remote(other.take.remote(failed)), other.read.remote([failed])]
    assert [fate(reference) for reference in [*references, end, actor.fail_oddly.remote()]] == ["raised"] * 6
    with pytest.raises(DataError, match="row 3"):
        answer_of(failed, 30, "reading")


def test_the_death_of_another_is_a_lost_object_and_that_of_the_called_one_is_its_own(start):
    actor, other = start(), start()
    (owned,) = ray.get(actor.own.remote())
    dead = actor.die.remote()
    assert fate(dead) == fate(actor.take.remote(1)) == "gone"
    wait_until(lambda: is_lost(owned), 30, "the end of an object's owner")
    assert [fate(reference) for reference in (owned, other.take.remote(dead), other.read.remote([dead]))] == ["object lost"] * 3
    with pytest.raises(LostError, match=r"^aggregating round 3: The actor died"):
        answer_of([other.take.remote(1), dead], 30, "aggregating round 3")


def test_an_actor_without_a_place_is_gone(start):
    nowhere = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    assert fate(start(scheduling_strategy=nowhere).take.remote(1)) == "gone"


def test_a_stopped_process_does_not_answer_and_can_be_ended(start):
    actor = start()
    pid = ray.get(actor.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    answer = actor.take.remote(1)
    with pytest.raises(LostError, match=r"^asking took longer than cluster\.call_timeout_s=0\.2 s; raise it if"):
        answer_of(answer, 0.2, "asking", "cluster.call_timeout_s")
    began = time.monotonic()
    ray.kill(actor)
    assert fate(answer) == "gone"
    assert time.monotonic() - began < 5


def test_every_error_of_ray_itself_is_a_death_and_none_is_left_to_a_list():
    classes = [c for c in vars(exceptions).values() if isinstance(c, type) and issubclass(c, RayError)]
    assert {exceptions.OutOfMemoryError, exceptions.NodeDiedError, exceptions.ActorUnavailableError} <= set(classes)
    fates = {c.__name__: fate_of(c.__new__(c)) for c in classes if not issubclass(c, RayTaskError)}
    raised = {name for name, found in fates.items() if found == "raised"}
    assert raised == {"RayError", "UnserializableException"}
    assert fates["OwnerDiedError"] == fates["ObjectLostError"] == "object lost"
    assert fates["OutOfMemoryError"] == fates["NodeDiedError"] == fates["ActorUnschedulableError"] == "gone"
    assert fate_of(DeadlineError("late")) == "gone"
