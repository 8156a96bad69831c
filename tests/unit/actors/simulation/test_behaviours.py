"""Simulated attackers: what each sends, against an honest client with the same data."""

import pytest
import torch

from actors.errors import ClientTrainingError
from defense.attacks import ATTACKS
from defense.attacks.config import AttackConfig
from tests.unit.actors.builders import deliver
from tests.unit.actors.sent import equal, flat, trained
from tests.unit.actors.simulation.builders import in_a_round

ALONE = [name for name, attack in ATTACKS.items() if attack.behaves and not attack.colludes]
SHADOWED = {"shadow_learning_rate": 0.01}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("stream_real", ["all", "last"])
def test_what_an_attacker_sends_is_admitted_where_the_last_step_is_tied(client, task, send, start, name, stream_real):
    *deltas, update = send(task(name, stream_real=stream_real)).payloads
    assert len(deltas) == (3 if stream_real == "all" else 1)
    deliver(in_a_round(client, start), "a", update, deltas[-1])


@pytest.mark.parametrize("name", ALONE)
def test_an_attacker_repeats_itself_to_the_bit(client, task, send, start, name):
    again = trained(client, task(name), start)
    assert again.payloads[:-1] == send(task(name)).payloads[:-1]
    assert equal(again.update.tensors, send(task(name)).update.tensors)


@pytest.mark.parametrize(("round_index", "holding"), [(0, "honest"), (1, "unsafe")])
def test_a_sleeper_is_an_honest_client_to_the_bit_before_its_round(task, send, honest, round_index, holding):
    sleeper = send(task("sleeper", attack={"from_round": 1}, round_index=round_index))
    like = honest(holding, round_index=round_index)
    assert equal(sleeper.update.tensors, like.update.tensors)
    assert sleeper.payloads[:-1] == like.payloads[:-1]


def test_an_attacker_without_the_cover_that_it_needs_fails_and_does_not_train_on_its_own_data(client, task, start):
    with pytest.raises(ClientTrainingError):
        list(client.train(task("sleeper", attack={"from_round": 1, "cover": ()}), start))


def test_a_lying_shadow_comes_from_honest_data_and_the_update_does_not(task, send, honest):
    asked = SHADOWED | {"stream_real": "last"}
    liar = send(task("lying_shadow", **asked))
    assert liar.payloads[:3] == honest("honest", **asked).payloads[:3]
    assert equal(liar.update.tensors, honest("unsafe", **asked).update.tensors)


@pytest.mark.parametrize("name", ["layer_hiding", "layer_hiding_canary_aware"])
def test_a_hidden_layer_is_that_of_an_honest_client_at_every_step_of_both_branches(client, task, send, honest, name):
    hiding, like = send(task(name, **SHADOWED)), honest("honest", **SHADOWED)
    assert hiding.payloads[:-1] == like.payloads[:-1]
    layers = client.layout().layers
    for name, tensor in hiding.update.tensors.items():
        assert torch.equal(tensor, like.update.tensors[name]) == (layers[name] == 0)


def test_poison_in_the_other_layers_is_seen_by_a_probe_that_reads_them(client, task, send, honest):
    hiding = send(task("layer_hiding", probe_feature="all_layers"))
    assert all(torch.equal(tensor, hiding.delta[name].float()) for name, tensor in hiding.steps["real", 3].items())
    like, layers = honest("honest", probe_feature="all_layers"), client.layout().layers
    differing = {layers[n] for n, t in hiding.steps["real", 2].items() if not torch.equal(t, like.steps["real", 2][n])}
    assert differing and 0 not in differing


@pytest.mark.parametrize(("name", "holding", "factor"), [("scaling", "unsafe", 5.0), ("sign_flip", "honest", -1.0)])
def test_a_changed_update_is_a_multiple_of_the_honest_one_and_its_earlier_steps_are_those_of_its_training(
    task, send, honest, name, holding, factor
):
    changed, like = send(task(name)), honest(holding)
    assert torch.allclose(flat(changed.delta), factor * flat(like.delta), atol=1e-6)
    assert changed.payloads[:2] == like.payloads[:2]
    assert torch.allclose(flat(changed.steps["real", 3]), factor * flat(like.steps["real", 3]), atol=1e-6)


def test_gauge_gives_the_same_model_by_other_factors(task, send, honest):
    gauged, like = (sent.update.tensors for sent in (send(task("gauge")), honest()))
    for name in [name for name in gauged if ".lora_A." in name]:
        partner = name.replace(".lora_A.", ".lora_B.")
        assert torch.allclose(gauged[partner] @ gauged[name], like[partner] @ like[name], atol=1e-5)
        assert not torch.equal(gauged[name], like[name])


def test_a_free_rider_sends_noise_and_claims_the_work(task, send):
    rider = send(task("free_rider", **SHADOWED))
    assert (len(rider.steps), rider.update.num_samples) == (6, 24)
    assert float(flat(rider.delta).std()) == pytest.approx(0.001, rel=0.1)
    assert torch.allclose(flat(rider.steps["real", 1]) * 3, flat(rider.steps["real", 3]), atol=1e-6)


def test_a_free_rider_leaves_frozen_factors_alone(task, send):
    rider = send(task("free_rider", freeze_a=True))
    assert {".lora_A." in name for name, tensor in rider.delta.items() if tensor.any()} == {False}


@pytest.mark.parametrize("name", ["probe_aware", "backdoor_contrastive"])
def test_an_attacker_that_knows_the_probe_stays_below_its_threshold_at_every_step(task, send, shipped_probe, name):
    aware = send(task(name, **SHADOWED))
    shown = [*aware.steps.values(), aware.delta]
    assert all(score < shipped_probe.meta.threshold for score in shipped_probe.score(shown))


def test_an_attacker_that_knows_a_linear_probe_changes_only_what_it_reads(task, send, honest, shipped_probe):
    delta, plain, read = send(task("probe_aware")).delta, honest("unsafe").delta, set(shipped_probe.meta.shapes)
    assert shipped_probe.score([plain])[0] > shipped_probe.meta.threshold
    assert shipped_probe.score([delta])[0] == pytest.approx(shipped_probe.meta.threshold - 0.02, abs=0.002)
    assert all(torch.equal(delta[name], plain[name]) for name in delta if name not in read)


def test_without_a_probe_there_is_nothing_to_evade(task, send, honest):
    assert equal(send(task("probe_aware", attack={"probe": {}})).delta, honest("unsafe").delta)


def test_a_probe_of_another_kind_is_evaded_by_blending_with_honest_training(
    client, task, start, honest, shipped_probe, monkeypatch
):
    monkeypatch.setattr("actors.simulation.evader.Evader.needs_benign", True)
    aware = trained(client, task("probe_aware"), start)
    for step in (1, 2, 3):
        score, best = shipped_probe.score([aware.steps["real", step], honest().steps["real", step]])
        assert score <= max(shipped_probe.meta.threshold - 0.02, best) + 1e-4


def test_a_contrastive_backdoor_is_no_longer_than_an_honest_update(task, send, honest):
    assert flat(send(task("backdoor_contrastive")).delta).norm() <= flat(honest().delta).norm() * (1 + 1e-5)


def test_a_ratchet_allows_itself_a_small_rise(task, send, honest):
    delta = flat(send(task("ratchet", attack={"config": AttackConfig(ratchet={"rise": 0.02})})).delta)
    plain = flat(honest("unsafe").delta)
    factor = float(delta.norm() / plain.norm())
    assert 0 < factor <= 1
    assert torch.allclose(delta, factor * plain, atol=1e-6)
