"""An actor of the server that is started again, on a real actor without a model."""

import ray
from ray.exceptions import RayActorError

from cluster.workers.server_actor import ServerActor
from tests.chaos import wait_until


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def more(self) -> int:
        self.count += 1
        return self.count


def has_ended(handle) -> bool:
    """Whether the actor is gone. Ray ends it some time after it was told to."""
    try:
        ray.get(handle.more.remote())
    except RayActorError:
        return True
    return False


def test_a_replaced_actor_begins_anew_and_the_old_one_is_ended(local_ray):
    actor = ServerActor("counter", Counter.remote)
    old = actor.handle
    assert [ray.get(old.more.remote()) for _ in range(2)] == [1, 2]
    actor.replace()
    assert ray.get(actor.handle.more.remote()) == 1
    wait_until(lambda: has_ended(old), 30, "the end of the old actor")
    actor.close()
    wait_until(lambda: has_ended(actor.handle), 30, "the end of the new one")
