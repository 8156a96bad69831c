"""cluster/round/local_rounds.py on real Ray actors that stream without a model: order, relayed deltas, errors and deadlines."""

import os
import signal
import time

import pytest
import ray
from ray.exceptions import OutOfMemoryError

from actors.errors import ClientTrainingError
from actors.messages import TrainTask
from cluster.round.local_rounds import Delivery, Job, client_failure, shortfall, train_all
from cluster.workers.pool import ClientPool, Starting


@ray.remote(num_cpus=0)
class Streamer:
    """Streams three deltas and an update, a brief client the update only; the client id says what goes wrong."""

    def train(self, task: TrainTask, adapter: bytes, difference: bytes | None):
        if task.client_id.startswith("brief"):
            time.sleep(0.5)
        for step in range(0 if task.client_id.startswith("brief") else 3):
            if task.client_id.startswith("fails") and step == 2:
                raise ClientTrainingError(f"ValueError: no more\ntraceback of {task.client_id}")
            if task.client_id.startswith("dies") and step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if task.client_id.startswith("hangs") and step == 1:
                time.sleep(60)
            yield f"{task.client_id} {step} {adapter.decode()}".encode()
        yield f"{task.client_id} update".encode()

    def silent(self):
        return None


class Kept:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.deliveries: dict[str, Delivery] = {}
        self.deltas: dict[str, list[bytes]] = {}

    def step_deltas(self, deltas):
        for given, delta in deltas:
            self.deltas.setdefault(given.client_id, []).append(ray.get(delta))

    def deliver(self, delivery):
        assert delivery.task.client_id not in self.deliveries
        self.deliveries[delivery.task.client_id] = delivery


class GivesUp(Kept):
    """Raises once so many clients have delivered, `pause_s` after each."""

    def __init__(self, count: int, pause_s: float = 0.0) -> None:
        super().__init__()
        self.count, self.pause_s = count, pause_s

    def deliver(self, delivery):
        super().deliver(delivery)
        if len(self.deliveries) == self.count:
            raise TimeoutError("given up")
        time.sleep(self.pause_s)


def task(client_id: str) -> TrainTask:
    return TrainTask(
        client_id=client_id, round_index=0, base_version=0, files=(), learning_rate=0.1, seed=0, probe_feature="first_layer_b"
    )


def start() -> Starting:
    actor = Streamer.remote()
    return Starting(actor, actor.silent.remote())


@pytest.fixture(scope="module")
def pool(local_ray):
    made = ClientPool(start, 2)
    yield made
    made.close()


def run(pool, *clients: str, receiver: Kept | None = None, timeout_s: float = 30.0, start_timeout_s: float = 30.0) -> Kept:
    receiver, adapter = receiver or Kept(), ray.put(b"adapter")
    jobs = [Job(task(client), adapter, receiver) for client in clients]
    train_all([(pool, jobs)], timeout_s=timeout_s, start_timeout_s=start_timeout_s)
    return receiver


def test_every_delta_is_handed_on_in_order_and_the_update_is_not(pool):
    names = [f"c{i}" for i in range(5)]
    kept = run(pool, *names)
    assert set(kept.deliveries) == set(names)
    for name in names:
        assert kept.deltas[name] == [f"{name} {step} adapter".encode() for step in range(3)]
        assert ray.get(kept.deliveries[name].update) == f"{name} update".encode()
        assert ray.get(kept.deliveries[name].last_delta) == kept.deltas[name][-1]
        assert shortfall(kept.deliveries[name], 3, 3) is None
    assert len(pool.actors) == 2


def test_a_client_that_raises_ends_with_its_error_and_spoils_no_other(pool):
    kept = run(pool, "fails", "fine")
    with pytest.raises(ClientTrainingError, match="no more"):
        ray.get(kept.deliveries["fails"].update)
    assert not kept.deliveries["fails"].lost
    assert shortfall(kept.deliveries["fails"], len(kept.deltas["fails"]), 3) == "client_failed: ValueError: no more"
    assert shortfall(kept.deliveries["fine"], len(kept.deltas["fine"]), 3) is None
    assert shortfall(kept.deliveries["fine"], 2, 3) == "2 step deltas of 3 steps"


def test_an_actor_that_dies_costs_one_client_and_is_replaced(pool):
    kept = run(pool, "dies", *(f"c{i}" for i in range(5)))
    assert kept.deliveries["dies"].lost
    assert kept.deliveries["dies"].failure.startswith("client_lost: ")
    assert all(kept.deliveries[f"c{i}"].failure is None for i in range(5))
    assert len(pool.actors) == 2


def test_clients_for_which_no_actor_ever_starts_are_delivered_as_pending(local_ray):
    @ray.remote(num_cpus=1000)
    class NoRoom:
        def ready(self):
            return None

    def start() -> Starting:
        actor = NoRoom.remote()
        return Starting(actor, actor.ready.remote())

    pool = ClientPool(start, 1)
    kept = run(pool, "a", "b", start_timeout_s=1.0)
    pool.close()
    assert {d.failure for d in kept.deliveries.values()} == {"pending: no client actor for cluster.start_timeout_s=1 s"}


def test_a_pool_trains_its_own_and_each_job_has_its_receiver(pool, local_ray):
    adapter, other, clients, references = ray.put(b"adapter"), ClientPool(start, 1), Kept(), Kept()
    jobs = [
        (other, [Job(task("mine"), adapter, references)]),
        (pool, [Job(task(f"c{i}"), adapter, clients) for i in range(3)]),
    ]
    train_all(jobs, timeout_s=30.0, start_timeout_s=30.0)
    assert (sorted(clients.deliveries), sorted(references.deliveries)) == (["c0", "c1", "c2"], ["mine"])
    assert (sorted(clients.deltas), sorted(references.deltas)) == (["c0", "c1", "c2"], ["mine"])
    assert (len(other.actors), len(pool.actors)) == (1, 2)
    other.close()


def test_training_that_a_receiver_gives_up_takes_no_time_from_what_comes_next(pool):
    given_up = GivesUp(1)
    with pytest.raises(TimeoutError, match="given up"):
        run(pool, "hangs", "fine", receiver=given_up)
    assert set(given_up.deliveries) == {"fine"}
    assert len(pool.actors) == 2
    kept = run(pool, "c0", "c1", timeout_s=10.0)
    assert [kept.deliveries[name].failure for name in ("c0", "c1")] == [None, None]


def test_actors_whose_clients_end_together_are_all_back_before_the_first_is_delivered(local_ray):
    pool, given_up = ClientPool(start, 3), GivesUp(2, pause_s=1.5)  # both others end in the meantime, and so in one poll
    ray.get([actor.silent.remote() for actor in pool.actors])
    with pytest.raises(TimeoutError, match="given up"):
        run(pool, "fine", "brief-a", "brief-b", receiver=given_up)
    assert next(iter(given_up.deliveries)) == "fine"
    actors = {pool.take() for _ in range(3)}
    pool.close()
    assert len(actors) == 3
    assert None not in actors


def test_a_client_past_its_deadline_is_given_up_and_its_actor_replaced(pool):
    before = set(pool.actors)
    kept = run(pool, "hangs", "fine", "also-fine", timeout_s=5.0)
    assert kept.deliveries["hangs"].failure == "late: no update within clients.timeout_s=5 s"
    assert shortfall(kept.deliveries["hangs"], 1, 3) == kept.deliveries["hangs"].failure
    assert kept.deliveries["also-fine"].failure is None
    assert len(pool.actors) == 2
    assert len(set(pool.actors) - before) == 1


def test_a_clients_own_failure_is_told_from_its_loss():
    assert client_failure(ClientTrainingError("OSError: gone\nmore")) == "client_failed: OSError: gone"
    assert client_failure(OutOfMemoryError("")) == "client_lost: OutOfMemoryError"
