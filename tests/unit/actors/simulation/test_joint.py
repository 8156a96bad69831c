"""The update that attackers optimise together: it comes nearer to what they want, and meets every condition."""

from dataclasses import replace

import pytest
import torch

from actors.errors import DataError
from actors.simulation.joint import Knowledge, joint
from actors.simulation.joint import _Plan as Plan
from actors.simulation.knowledge import gathered
from actors.wire import decode_tensors
from defense.admission.bounds import adamw_reach
from defense.attacks.config import JointConfig
from defense.tensors import rows
from tests.unit.actors.simulation.builders import TRAINING

CONFIG = JointConfig(steps=4, references=2)


@pytest.fixture(scope="module")
def tasks(task):
    """Of two attackers."""
    return [replace(task("joint"), client_id=client_id) for client_id in "ab"]


@pytest.fixture(scope="module")
def known(client, start, tasks, send) -> Knowledge:
    deltas = [send(own).delta for own in tasks]
    return gathered(client._model, TRAINING, decode_tensors(start), tasks, deltas, 5, CONFIG)


@pytest.fixture(scope="module")
def sent(known) -> list[dict[str, torch.Tensor]]:
    return joint(known, CONFIG, seed=0)


def test_attackers_know_their_own_data_and_the_probe_and_train_with_labels(known, shipped_probe):
    assert known.probe.meta == shipped_probe.meta
    assert known.surrogate.meta.version == shipped_probe.meta.version + 1
    assert (len(known.benign), len(known.malicious), len(known.unsafe)) == (2, 2, CONFIG.steps + 1)
    assert known.reach == adamw_reach(0.01, TRAINING.steps)


def test_without_a_probe_there_is_none_to_fit(client, start, tasks, send):
    blind = [replace(own, attack=replace(own.attack, probe={})) for own in tasks]
    deltas = [send(own).delta for own in tasks]
    known = gathered(client._model, TRAINING, decode_tensors(start), blind, deltas, 5, CONFIG)
    assert (known.probe, known.surrogate) == (None, None)
    assert set(Plan.made(known, CONFIG).conditions) == {"refusals", "refusals together", "spectrum", "direction", "likeness"}


def test_an_attacker_without_the_files_that_it_needs_is_an_error(client, start, tasks, send):
    bare = [replace(own, attack=replace(own.attack, cover=())) for own in tasks]
    with pytest.raises(DataError, match=r"^a attacks by joint, and lacks a file of honest, unsafe, refused, kept rows"):
        gathered(client._model, TRAINING, decode_tensors(start), bare, [send(own).delta for own in tasks], 5, CONFIG)


def test_the_update_brings_the_aggregate_nearer_to_answering_and_meets_every_condition(known, sent):
    plan, common_D = Plan.made(known, CONFIG), rows(sent).mean(0)
    assert plan.answering(common_D) <= plan.answering(plan.honest_D)
    assert plan._is_met(common_D) or torch.allclose(common_D, plan.honest_D)
    for delta in rows(sent):
        assert float(delta.norm()) <= plan.most * (1 + 1e-9)
        assert float(delta.abs().max()) <= known.reach


def test_attackers_differ_by_a_part_of_what_their_honest_updates_differ_by(known, sent):
    one_D, other_D = rows(sent)
    honest_MD = rows(known.honest)
    assert not torch.equal(one_D, other_D)
    assert float((one_D - other_D).norm()) == pytest.approx(0.1 * float((honest_MD[0] - honest_MD[1]).norm()), rel=0.05)


def test_the_same_seed_gives_the_same_update_to_the_bit(known, sent):
    again = joint(known, CONFIG, seed=0)
    assert all(torch.equal(rows([one]), rows([other])) for one, other in zip(again, sent, strict=True))


def test_the_gradient_at_the_aggregate_is_that_of_the_attackers_part(known):
    plan = Plan.made(known, CONFIG)
    d_D, batch = plan.honest_D, known.unsafe[0]
    value, gradient_D = plan._at_aggregate(d_D, batch)
    step_D = -0.05 * gradient_D / gradient_D.norm()
    moved, _ = plan._at_aggregate(d_D + step_D, batch)
    assert moved - value == pytest.approx(float(gradient_D @ step_D), rel=0.2)


def test_a_projection_cuts_values_first_and_then_the_length(known):
    plan = replace(Plan.made(known, CONFIG), most=1.0, known=replace(known, reach=0.8))
    assert plan.projected(torch.tensor([0.5, -0.5])).tolist() == [0.5, -0.5]
    assert plan.projected(torch.tensor([3.0, 0.6])).tolist() == pytest.approx([0.8, 0.6])
    assert plan.projected(torch.tensor([3.0, -3.0])).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)])


def test_a_point_that_breaks_a_condition_goes_back_towards_honest_updates(known):
    plan = Plan.made(known, CONFIG)
    towards_D = torch.zeros_like(plan.honest_D)
    towards_D[0] = 1.0
    plan.conditions = {"short": lambda d_D: (float((d_D - plan.honest_D) @ towards_D) - 0.5, towards_D)}
    found_D = plan.feasible(plan.honest_D + towards_D)
    assert float((found_D - plan.honest_D)[0]) == pytest.approx(0.5, abs=2**-6)
    plan.conditions = {"never": lambda d_D: (1.0, towards_D)}
    assert torch.equal(plan.feasible(plan.honest_D + towards_D), plan.honest_D)


def test_frozen_parameters_stay(known):
    frozen = frozenset(name for name in known.start if ".lora_A." in name)
    still = [{name: tensor * (name not in frozen) for name, tensor in delta.items()} for delta in known.honest]
    held = replace(known, honest=still, malicious=still, benign=known.benign, frozen=frozen)
    for delta in joint(held, CONFIG, seed=0):
        assert not any(bool(delta[name].any()) for name in frozen)
