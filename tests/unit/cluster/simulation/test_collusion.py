"""Attackers that collude, from the driver's side: kept back until all have trained, then delivered together."""

import pytest
import ray
import torch

from actors.config import TrainingConfig
from actors.errors import ClientTrainingError
from actors.messages import LoRAUpdate, StepDelta, TrainTask
from actors.simulation.behaviours import AttackTask
from actors.simulation.client import SimulatedTask
from actors.simulation.collusion import ColludersActor
from actors.wire import decode_message
from cluster.errors import LostError
from cluster.round.local_rounds import Delivery
from cluster.simulation.collusion import Collusion, colludes
from defense.attacks.config import AttackConfig
from tests.unit.actors.builders import B0, LAYOUT, START_BYTES, train_task, update


def attacker(client_id: str, attack: str = "ipm", **changes) -> SimulatedTask:
    plain = train_task((), client_id=client_id, **changes)
    fields = {name: getattr(plain, name) for name in TrainTask.__dataclass_fields__}
    return SimulatedTask(**fields, attack=AttackTask(name=attack, config=AttackConfig()))


class Kept:
    """A receiver that keeps what comes, in order."""

    def __init__(self) -> None:
        self.came: list = []

    def step_deltas(self, deltas):
        self.came += [(task.client_id, delta) for task, delta in deltas]

    def deliver(self, delivery):
        self.came.append(delivery)


@pytest.fixture
def colluders(local_ray):
    made = ColludersActor.options(num_cpus=0).remote(LAYOUT, "ipm", AttackConfig(), TrainingConfig(steps=2))
    yield made
    ray.kill(made)


@ray.remote(num_cpus=0)
def raises() -> bytes:
    raise ClientTrainingError("ValueError: no rows")


def test_what_attackers_agreed_on_is_delivered_with_the_last_of_them_in_order_of_id(colluders):
    tasks, kept = [attacker(client_id) for client_id in "abc"] + [train_task((), client_id="d")], Kept()
    collusion = Collusion(colluders, tasks, ray.put(START_BYTES), kept, 30.0)
    sent = {"c": update("c", 3.0), "a": update("a", 1.0)}
    for client_id in sent:
        collusion.deliver(Delivery(next(t for t in tasks if t.client_id == client_id), ray.put(sent[client_id])))
    assert kept.came == []
    failed = Delivery(tasks[1], raises.remote())
    collusion.deliver(failed)

    (delta_a, a, untouched, delta_c, c) = kept.came
    assert untouched is failed  # it takes no part, and its own delivery says why
    for (client_id, delta), delivery in ((delta_a, a), (delta_c, c)):
        assert client_id == delivery.task.client_id
        assert delta == delivery.last_delta
        made, last = decode_message(ray.get(delivery.update), LoRAUpdate), decode_message(ray.get(delta), StepDelta)
        assert (made.client_id, last.client_id, last.step, last.num_samples) == (client_id, client_id, 2, 4)
        assert torch.equal(made.tensors[B0], last.tensors[B0])
        assert bool((made.tensors[B0] < 0).all())  # against the mean of their own, which is 2


def test_step_deltas_pass_and_an_attacker_without_an_update_is_delivered_at_once(colluders):
    tasks, kept = [attacker(client_id, probe_feature=None) for client_id in "ab"], Kept()
    collusion = Collusion(colluders, tasks, ray.put(START_BYTES), kept, 30.0)
    collusion.step_deltas([(tasks[0], "delta")])
    late = Delivery(tasks[0], failure="late: no update")
    collusion.deliver(late)
    assert kept.came == [("a", "delta"), late]
    collusion.deliver(Delivery(tasks[1], ray.put(update("b", 1.0))))
    assert [item.task.client_id for item in kept.came[2:]] == ["b"]
    assert kept.came[2].last_delta is None  # no probe reads it


def test_a_round_whose_colluders_are_gone_is_lost(colluders):
    collusion = Collusion(colluders, [attacker("a")], ray.put(START_BYTES), Kept(), 30.0)
    ray.kill(colluders)
    with pytest.raises(LostError, match=r"^the colluders' actor is gone: "):
        collusion.deliver(Delivery(attacker("a"), ray.put(update("a", 1.0))))


def test_only_attackers_whose_attack_is_made_together_collude():
    assert colludes(attacker("a"))
    assert not colludes(attacker("a", "scaling"))
    assert not colludes(train_task(()))
