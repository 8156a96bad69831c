"""The pool on real actors without a model: only started actors take clients, dead ones are replaced, misfits left out."""

import time

import pytest
import ray

from actors.errors import ModelError
from cluster.errors import ClusterError, DeadlineError
from cluster.workers.pool import ClientPool, Starting


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, seconds: float = 0.0) -> None:
        time.sleep(seconds)

    def ready(self) -> str:
        return "fine"


def starter(*seconds: float):
    """Starts actors that take so long each, the last figure for all further ones; those of -1 die as they start."""
    durations = iter(seconds)
    last = [0.0]

    def start() -> Starting:
        last[0] = next(durations, last[0])
        actor = Worker.remote(max(0.0, last[0]))
        ready = actor.ready.remote()
        if last[0] < 0:
            ray.kill(actor)
        return Starting(actor, ready)

    return start


def take(pool: ClientPool, timeout_s: float = 20.0):
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if (actor := pool.take()) is not None:
            return actor
        time.sleep(0.05)
    raise AssertionError("no actor became ready")


@pytest.fixture
def make(local_ray):
    pools = []

    def make(*args, **kwargs):
        pools.append(ClientPool(*args, **kwargs))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_an_actor_that_is_still_starting_holds_up_nobody(make):
    pool = make(starter(60.0, 0.0), 2)
    quick = take(pool)
    assert quick == pool.actors[0]
    assert pool.take() is None
    assert len(pool.starting) == 1
    pool.give_back(quick)
    assert pool.take() == quick


def test_the_first_to_start_is_waited_for_but_not_for_ever(make):
    pool = make(starter(60.0, 0.0), 2)
    assert pool.wait_for_one(20) == pool.take()
    with pytest.raises(DeadlineError, match=r"no client actor started within 0\.2 s"):
        make(starter(60.0), 1).wait_for_one(0.2)


def test_one_that_died_is_replaced_by_another(make):
    pool = make(starter(0.0), 1)
    actor = take(pool)
    ray.kill(actor)
    pool.replace(actor)
    assert take(pool) != actor


def test_one_that_dies_as_it_starts_is_started_again_but_not_for_ever(make):
    assert take(make(starter(-1.0, -1.0, 0.0), 1))
    with pytest.raises(ClusterError, match="5 client actors in a row died as they started"):
        take(make(starter(-1.0), 1))


def test_a_misfit_is_left_out_and_the_last_one_ends_the_run(make):
    seen = []

    def accept(value):
        seen.append(value)
        if len(seen) > 1:
            raise ModelError("another model")

    pool = make(starter(0.0), 2, accept)
    actor = take(pool)
    until = time.monotonic() + 20
    while len(pool.actors) > 1 and time.monotonic() < until:
        assert pool.take() is None
        time.sleep(0.05)
    assert list(pool.actors) == [actor]

    def refuse(value):
        raise ModelError(f"not {value}")

    with pytest.raises(ModelError, match="not fine"):
        take(make(starter(0.0), 1, refuse))
