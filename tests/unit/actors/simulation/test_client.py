"""The simulated client: a recipe of its own, an attack, or neither."""

import pytest

from actors.client import Client
from actors.config import Recipe
from actors.messages import ProbeScore, Reading
from actors.scaffold import CLIPPING_SLACK
from actors.simulation.client import SimulatedClient
from defense.admission.checks import check_control_variate
from defense.attacks import ATTACKS
from tests.unit.actors.builders import deliver, train_task
from tests.unit.actors.sent import Sent, equal, trained
from tests.unit.actors.simulation.builders import TRAINING, in_a_round

SHADOWED = {"shadow_learning_rate": 0.01, "stream_real": "last"}


@pytest.fixture(scope="module")
def plain(base_config, lora) -> Client:
    """A client of a federation that simulates nothing."""
    return Client(base_config, lora, TRAINING)


def same(one: Sent, other: Sent) -> bool:
    return one.payloads[:-1] == other.payloads[:-1] and equal(one.update.tensors, other.update.tensors)


@pytest.mark.parametrize("asked", [SHADOWED, {"recipe": Recipe()}])
def test_without_recipe_and_attack_it_is_an_honest_client_to_the_bit(plain, send, data, start, asked):
    own = send(train_task(data("honest"), **asked))
    assert same(own, trained(plain, train_task(data("honest"), **{k: v for k, v in asked.items() if k != "recipe"}), start))


@pytest.mark.parametrize(
    ("recipe", "task"),
    [
        (Recipe(learning_rate_factor=0.5), {"learning_rate": 0.005}),
        (Recipe(steps=2), {"num_steps": 2}),
    ],
)
def test_a_recipe_is_an_honest_clients_training_with_one_thing_changed(honest, recipe, task):
    assert same(honest(recipe=recipe), honest(**task))
    assert not same(honest(recipe=recipe), honest())


def test_weight_decay_can_be_a_recipes_own(base_config, lora, honest, data, start):
    decaying = SimulatedClient(base_config, lora, TRAINING.model_copy(update={"weight_decay": 0.5}))
    assert same(honest(recipe=Recipe(weight_decay=0.5)), trained(decaying, train_task(data("honest")), start))
    without = trained(decaying, train_task(data("honest"), recipe=Recipe(weight_decay=0.0)), start)
    assert same(without, honest())


@pytest.mark.parametrize("recipe", [Recipe(optimizer="sgd"), Recipe(learning_rate_factor=2.0), Recipe(weight_decay=0.5)])
def test_a_recipe_changes_the_update_and_not_the_shadow(honest, recipe):
    own, like = honest(**SHADOWED, recipe=recipe), honest(**SHADOWED)
    assert own.payloads[:3] == like.payloads[:3]
    assert own.payloads[3] != like.payloads[3]


@pytest.mark.parametrize(
    ("level", "found"),
    [
        ("live", {"scores": [ProbeScore(client_id="a", branch="update", step=1, probability=0.1)]}),
        ("canary", {"readings": [Reading(client_id="a", signal="canary", values={"canary_rise": 0.0})]}),
    ],
)
def test_fewer_steps_cost_nothing_where_the_update_itself_is_judged(client, honest, start, level, found):
    made = in_a_round(client, start, level)
    (sent,) = honest(recipe=Recipe(steps=2), probe_feature=None).payloads
    row = made.close_round([deliver(made, "a", sent, **found)]).clients[0]
    assert (row.num_samples, row.weight) == (16, 1.0)


@pytest.mark.parametrize(("level", "asked"), [("step", {}), ("client", {}), ("shadow", SHADOWED), ("evidence", SHADOWED)])
def test_where_step_deltas_are_weighed_fewer_steps_are_refused(client, honest, start, level, asked):
    *_, last_delta, update = honest(recipe=Recipe(steps=2), **asked).payloads
    answer, _ = in_a_round(client, start, level).admit("a", update, last_delta)
    assert answer.reason == "untied_evidence: the message before the update is of step 2, not the last"


@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if kind.behaves])
def test_every_attacker_sends_the_control_variate_of_its_training(client, task, start, name):
    control = trained(client, task(name), start, difference=start).update.control_variate  # c - c_i: any values do
    # An attacker that hides trains twice, and each part of its gradient is clipped by itself.
    bound = CLIPPING_SLACK * TRAINING.max_grad_norm * (2**0.5 if name.startswith("layer_hiding") else 1)
    assert check_control_variate(control, client.layout().shapes, bound) is None
    assert any(bool(tensor.any()) for tensor in control.values()) == (name != "free_rider")


def test_an_attacker_that_changes_its_update_sends_the_control_variate_of_an_honest_one(client, task, data, start):
    honest, flipped = (trained(client, asked, start, start).update for asked in (train_task(data("honest")), task("sign_flip")))
    assert equal(flipped.control_variate, honest.control_variate)
    assert not equal(flipped.tensors, honest.tensors)
