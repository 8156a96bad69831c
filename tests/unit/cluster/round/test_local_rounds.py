"""cluster/round/local_rounds.py on real Ray actors that stream without a model: order, relayed deltas, errors and deadlines."""

import os
import signal
import time
from contextlib import closing

import pytest
import ray

from actors.errors import ClientTrainingError
from actors.messages import TrainTask
from cluster.errors import DeadlineError
from cluster.round.local_rounds import client_failure, first_line, shortfall, train_all
from cluster.workers.pool import ClientPool, Starting


@ray.remote(num_cpus=0)
class Streamer:
    """Streams three deltas and an update, a brief client the update only; the client id says what goes wrong."""

    def train(self, task: TrainTask, adapter: bytes):
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


def task(client_id: str) -> TrainTask:
    return TrainTask(
        client_id=client_id, round_index=0, base_version=0, files=(), learning_rate=0.1, seed=0, probe_feature="first_layer_b"
    )


def start() -> Starting:
    actor = Streamer.remote()
    return Starting(actor, actor.silent.remote())


@pytest.fixture
def pool(local_ray):
    made = ClientPool(start, 2)
    yield made
    made.close()


def run(pool, *clients: str, timeout_s: float = 30.0, start_timeout_s: float = 30.0):
    """Deliveries by client, and the relayed deltas of each."""
    deltas: dict[str, list[bytes]] = {}

    def keep(arrived):
        for given, delta in arrived:
            deltas.setdefault(given.client_id, []).append(ray.get(delta))

    adapter = ray.put(b"adapter")
    jobs = [(task(client), adapter) for client in clients]
    return {
        d.task.client_id: d
        for d in train_all([(pool, jobs)], timeout_s=timeout_s, start_timeout_s=start_timeout_s, on_deltas=keep)
    }, deltas


def test_every_delta_is_relayed_in_order_and_the_update_is_not(pool):
    names = [f"c{i}" for i in range(5)]
    deliveries, deltas = run(pool, *names)
    assert set(deliveries) == set(names)
    for name in names:
        assert deltas[name] == [f"{name} {step} adapter".encode() for step in range(3)]
        assert ray.get(deliveries[name].update) == f"{name} update".encode()
        assert ray.get(deliveries[name].last_delta) == deltas[name][-1]
        assert shortfall(deliveries[name], 3, 3) is None
    assert len(pool.actors) == 2


def test_a_client_that_raises_ends_with_its_error_and_spoils_nobody_else(pool):
    deliveries, deltas = run(pool, "fails", "fine")
    with pytest.raises(ClientTrainingError, match="no more"):
        ray.get(deliveries["fails"].update)
    assert not deliveries["fails"].lost
    assert shortfall(deliveries["fails"], len(deltas["fails"]), 3) == "client_failed: ValueError: no more"
    assert shortfall(deliveries["fine"], len(deltas["fine"]), 3) is None


def test_an_actor_that_dies_costs_one_client_and_is_replaced(pool):
    deliveries, _ = run(pool, "dies", *(f"c{i}" for i in range(5)))
    assert deliveries["dies"].lost
    assert deliveries["dies"].failure.startswith("client_lost: ")
    assert all(deliveries[f"c{i}"].failure is None for i in range(5))
    assert len(pool.actors) == 2


def test_clients_for_whom_no_actor_ever_starts_are_told_as_pending(local_ray):
    @ray.remote(num_cpus=1000)
    class NoRoom:
        def ready(self):
            return None

    def start() -> Starting:
        actor = NoRoom.remote()
        return Starting(actor, actor.ready.remote())

    pool = ClientPool(start, 1)
    deliveries, _ = run(pool, "a", "b", start_timeout_s=1.0)
    pool.close()
    assert {d.failure for d in deliveries.values()} == {"pending: no client actor for cluster.start_timeout_s=1 s"}


def test_a_pool_trains_its_own_and_one_without_room_holds_up_no_other(pool, local_ray):
    adapter, other = ray.put(b"adapter"), ClientPool(start, 1)
    jobs = [(other, [(task("mine"), adapter)]), (pool, [(task(f"c{i}"), adapter) for i in range(3)])]
    names = [
        delivery.task.client_id for delivery in train_all(jobs, timeout_s=30.0, start_timeout_s=30.0, on_deltas=lambda _: None)
    ]
    assert sorted(names) == ["c0", "c1", "c2", "mine"]
    assert (len(other.actors), len(pool.actors)) == (1, 2)
    other.close()


def test_a_collection_that_is_given_up_leaves_its_actors_usable(pool):
    jobs = [(task("slow-a"), ray.put(b"adapter")), (task("slow-b"), ray.put(b"adapter"))]
    with closing(train_all([(pool, jobs)], timeout_s=30.0, start_timeout_s=30.0, on_deltas=lambda _: None)) as deliveries:
        next(deliveries)
    assert run(pool, "c0", "c1")[0].keys() == {"c0", "c1"}


def test_training_that_is_given_up_takes_no_time_from_what_comes_next(pool):
    jobs = [(task("hangs"), ray.put(b"adapter")), (task("fine"), ray.put(b"adapter"))]
    with closing(train_all([(pool, jobs)], timeout_s=30.0, start_timeout_s=30.0, on_deltas=lambda _: None)) as deliveries:
        assert next(deliveries).task.client_id == "fine"
    assert len(pool.actors) == 2
    deliveries, _ = run(pool, "c0", "c1", timeout_s=10.0)
    assert [deliveries[name].failure for name in ("c0", "c1")] == [None, None]


def test_actors_whose_clients_end_together_are_all_back_before_the_first_is_delivered(local_ray):
    pool = ClientPool(start, 3)
    adapter, names = ray.put(b"adapter"), ("fine", "brief-a", "brief-b")
    ray.get([actor.silent.remote() for actor in pool.actors])
    jobs = [(pool, [(task(name), adapter) for name in names])]
    with closing(train_all(jobs, timeout_s=30.0, start_timeout_s=30.0, on_deltas=lambda _: None)) as deliveries:
        assert next(deliveries).task.client_id == "fine"
        time.sleep(1.5)  # both others end in the meantime, and so in one poll
        assert next(deliveries).task.client_id.startswith("brief")
    actors = {pool.take() for _ in names}
    pool.close()
    assert len(actors) == 3
    assert None not in actors


def test_a_client_past_its_deadline_is_given_up_and_its_actor_replaced(pool):
    before = set(pool.actors)
    deliveries, _ = run(pool, "hangs", "fine", "also-fine", timeout_s=5.0)
    assert deliveries["hangs"].failure == "late: no update within clients.timeout_s=5 s"
    assert shortfall(deliveries["hangs"], 1, 3) == deliveries["hangs"].failure
    assert deliveries["also-fine"].failure is None
    assert len(pool.actors) == 2
    assert len(set(pool.actors) - before) == 1


def test_too_few_deltas_are_said_even_without_an_error(pool):
    deliveries, _ = run(pool, "fine")
    assert shortfall(deliveries["fine"], 2, 3) == "2 step deltas of 3 steps"


def test_an_error_is_told_in_one_line():
    assert (
        first_line(DeadlineError("refitting the probe took longer than 60 s\nmore"))
        == "refitting the probe took longer than 60 s"
    )
    assert first_line(RuntimeError("")) == "RuntimeError"


def test_what_befell_a_client_tells_its_own_failure_from_its_loss():
    assert client_failure(ClientTrainingError("OSError: gone\nmore")) == "client_failed: OSError: gone"
    assert client_failure(RuntimeError("")) == "client_lost: RuntimeError"
