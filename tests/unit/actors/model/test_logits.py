"""Logits at chosen positions are those of the plain model, whatever its class does with them after the output layer."""

import pytest
import torch

from actors.config import LoraConfig, ModelConfig
from actors.data.encoding import IGNORED, Encoded, collate
from actors.local_training import response_loss_sum
from actors.model.adapted import AdaptedModel
from actors.model.logits import logits_at
from tests.small_models import ATTENTION, SHAPES, save_model

ROWS = [Encoded((5, 6, 7, 8, 9), (IGNORED, IGNORED, 7, 8, 9)), Encoded((4, 9, 3), (IGNORED, IGNORED, 3))]
SOFTER = {"gemma2": {"final_logit_softcapping": 2.0}, "cohere": {"logit_scale": 0.25}, "granite": {"logits_scaling": 4.0}}
KINDS = [*SHAPES, "cohere", "granite", "phi"]


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory) -> AdaptedModel:
    kind = request.param
    folder = save_model(tmp_path_factory.mktemp("model") / kind, kind, **SOFTER.get(kind, {}))
    targets = ATTENTION.get(kind, ["q_proj", "v_proj"])
    return AdaptedModel(
        ModelConfig(path=str(folder), attention="eager"), LoraConfig(r=2, target_modules=targets), torch.device("cpu")
    )


def test_the_logits_are_the_plain_ones_of_these_positions(model):
    batch = collate(ROWS)
    positions = torch.tensor([[False, True, False, True, True], [True, False, False, False, False]])
    with torch.no_grad():
        plain = model.peft(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        chosen = logits_at(model.peft, positions, input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert chosen.shape == (4, plain.shape[-1])
    torch.testing.assert_close(chosen, plain[positions])


def test_the_loss_and_its_gradient_are_those_of_the_models_own_logits(model):
    batch = collate(ROWS)
    parameters = list(model.adapter_parameters.values())
    logits = model.peft(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1].float()
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum")
    loss = response_loss_sum(model, batch)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for own, other in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_nothing_stays_behind_on_the_output_layer(model):
    batch = collate(ROWS)
    logits_at(model.peft, batch.labels != IGNORED, input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert not model.peft.get_base_model().get_output_embeddings()._forward_pre_hooks


def test_no_chosen_position_gives_no_logits_and_a_loss_of_zero(model):
    batch = collate([Encoded((5, 6, 7), (IGNORED,) * 3)])
    assert float(response_loss_sum(model, batch)) == 0.0
