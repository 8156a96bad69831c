"""Attackers that collude: they train honestly, keep back the last step delta, and send what is made of all their updates."""

from dataclasses import replace

import pytest
import torch

from actors.messages import LoRAUpdate
from actors.simulation.collusion import Base, Colluders
from actors.wire import decode_message, decode_tensors
from defense.attacks import ATTACKS
from defense.attacks.config import AttackConfig, ExclusionConfig, JointConfig
from tests.unit.actors.builders import deliver
from tests.unit.actors.sent import equal, flat, trained
from tests.unit.actors.simulation.builders import TRAINING, in_a_round

QUICK = AttackConfig(joint=JointConfig(steps=2, references=2, restarts=1), exclusion=ExclusionConfig(targets=1))
TOGETHER = [name for name, attack in ATTACKS.items() if attack.colludes]


def plotted(client, task, send, start, name: str, **changes) -> dict[str, tuple[bytes, bytes]]:
    """What two attackers of a round of five clients send."""
    base = Base(model=client._model_config, lora=client._lora)
    colluders = Colluders(client.layout(), name, QUICK, TRAINING, base)
    colluders.begin(start, 5)
    for client_id in ("b", "a"):
        own = replace(task(name, **changes), client_id=client_id)
        colluders.receive(own, send(own).payloads[-1])
    return {client_id: colluders.messages(client_id) for client_id in ("a", "b")}


@pytest.mark.parametrize("name", TOGETHER)
def test_colluders_keep_back_their_last_real_delta_and_send_one_that_is_admitted(client, task, send, start, name):
    assert list(send(task(name)).steps) == [("real", 1), ("real", 2)]
    made, messages = in_a_round(client, start, clients="ab"), plotted(client, task, send, start, name)
    for client_id, (last_delta, update) in messages.items():
        deliver(made, client_id, update, last_delta)
    one, other = (decode_message(update, LoRAUpdate) for _, update in messages.values())
    assert equal(one.tensors, other.tensors) == (name != "joint")  # whose attackers differ a little
    assert one.num_samples == 24


def test_ipm_sends_minus_a_part_of_the_attackers_mean(client, task, send, start):
    mean = sum(flat(send(replace(task("ipm"), client_id=name)).delta) for name in ("a", "b")) / 2
    update = decode_message(plotted(client, task, send, start, "ipm")["a"][1], LoRAUpdate).tensors
    moved = {name: tensor.double() - decode_tensors(start)[name] for name, tensor in update.items()}
    assert torch.allclose(flat(moved), -0.5 * mean, atol=1e-6)


def test_without_a_probe_colluders_send_no_delta(client, task, send, start):
    assert len(send(task("ipm", probe_feature=None)).payloads) == 1
    last_delta, update = plotted(client, task, send, start, "ipm", probe_feature=None)["a"]
    assert last_delta == b""
    assert decode_message(update, LoRAUpdate).client_id == "a"


def test_colluders_keep_their_own_control_variates(client, task, start):
    difference = start  # any values; of the trained parameters' names and shapes
    colluders = Colluders(client.layout(), "ipm", AttackConfig(), TRAINING)
    colluders.begin(start, 5)
    own = {name: replace(task("ipm"), client_id=name) for name in ("a", "b")}
    sent = {name: trained(client, asked, start, difference) for name, asked in own.items()}
    for name, asked in own.items():
        colluders.receive(asked, sent[name].payloads[-1])
    for name in own:
        made = decode_message(colluders.messages(name)[1], LoRAUpdate)
        assert equal(made.control_variate, sent[name].update.control_variate)


def test_a_new_round_forgets_the_attackers_of_the_last(client, task, send, start):
    colluders = Colluders(client.layout(), "ipm", AttackConfig(), TRAINING)
    colluders.begin(start, 5)
    colluders.receive(task("ipm"), send(task("ipm")).payloads[-1])
    colluders.begin(start, 5)
    with pytest.raises(KeyError):
        colluders.messages("a")


def test_attackers_that_train_together_need_a_model(client, task, send, start):
    colluders = Colluders(client.layout(), "joint", QUICK, TRAINING)
    colluders.begin(start, 5)
    colluders.receive(task("joint"), send(task("joint")).payloads[-1])
    with pytest.raises(RuntimeError, match=r"clients\.attack=joint trains a model, and none was given"):
        colluders.agree()


def test_excluders_turn_another_familys_update_in_each_round(client, task, send, start):
    turned = {}
    for index in range(2):
        own = {name: replace(task("exclusion"), client_id=name, round_index=index) for name in "ab"}
        colluders = Colluders(client.layout(), "exclusion", QUICK, TRAINING)
        colluders.begin(start, 5)
        for asked in own.values():
            colluders.receive(asked, send(asked).payloads[-1])
        update = decode_message(colluders.messages("a")[1], LoRAUpdate).tensors
        moved = flat({name: tensor.double() - decode_tensors(start)[name] for name, tensor in update.items()})
        deltas = {name: flat(send(asked).delta) for name, asked in own.items()}
        turned[index] = min(deltas, key=lambda name: float(torch.cosine_similarity(moved, deltas[name], dim=0)))
        assert float(torch.cosine_similarity(moved, deltas[turned[index]], dim=0)) == pytest.approx(-1, abs=1e-5)
    assert turned == {0: "a", 1: "b"}
