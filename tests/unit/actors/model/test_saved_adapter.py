"""Whether peft loads the saved adapter as the run's: what was saved passes, and any difference is refused."""

import json

import torch
from pytest import fixture, mark, raises

from actors.config import LoraConfig
from actors.errors import ModelError
from actors.model.adapted import AdaptedModel
from actors.model.saved_adapter import check_saved, tolerance
from actors.wire import encode_tensors
from tests.small_models import save_model
from tests.unit.actors.model.test_lora import CPU, config_of, make_state


@fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@mark.parametrize("dtype", ["float32", "bfloat16"])
@mark.parametrize("kind", ["llama", "gpt2"])
def test_the_check_of_a_saved_adapter_passes_what_was_saved_and_leaves_the_model_as_it_was(tmp_path, kind, dtype):
    model = AdaptedModel(
        config_of(kind, save_model(tmp_path / "base", kind), dtype), LoraConfig(target_modules="all-linear"), CPU
    )
    state, before, config = make_state(model), encode_tensors(model.adapter_state()), model.peft_config_json()
    check_saved(model, state, encode_tensors(state), config)
    assert encode_tensors(model.adapter_state()) == before
    assert model.peft_config_json() == config
    trainable = {id(parameter) for parameter in model.peft.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in model.adapter_parameters.values()}
    assert not any("saved" in name for name, _ in model.peft.named_parameters())


@mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_adapter_that_is_not_the_runs_is_refused_however_little_it_differs(llama, dtype):
    model = AdaptedModel(config_of("llama", llama, dtype), LoraConfig(), CPU)
    state, config = make_state(model), json.loads(model.peft_config_json())
    before, name = encode_tensors(model.adapter_state()), min(state)
    near = {**state, name: state[name] * (1 + 1e-6)}
    fewer = {key: tensor for key, tensor in state.items() if key != name}
    for tensors, changed, complaint in (
        (near, {}, f"other values than the run's in 1 tensors: {name}"),
        (fewer, {}, "other values"),
        (state, {"lora_alpha": 16.001}, "scaled by"),
        (state, {"target_modules": ["q_proj"]}, "other tensors"),
        (state, {"r": 4}, "peft does not load"),
        (state, {"use_rslora": True}, "scaled by"),
    ):
        with raises(ModelError, match=complaint):
            check_saved(model, state, encode_tensors(tensors), json.dumps(config | changed))
        assert encode_tensors(model.adapter_state()) == before
    check_saved(model, state, encode_tensors(state), json.dumps(config))


def test_other_logits_are_refused_with_their_difference_and_rounding_in_the_bases_type_is_not(llama):
    model = AdaptedModel(config_of("llama", llama), LoraConfig(target_modules=["q_proj", "lm_head"]), CPU)
    state, drift = make_state(model), [0.5]
    head = model.peft.get_output_embeddings()

    def differ(module, inputs, output):
        """The second answer is another than the first."""
        drift.append(drift[-1] + drift[0])
        return output + drift[-1]

    with head.register_forward_hook(differ), raises(ModelError, match=r"other logits than the run's: they differ by up to 0\.5"):
        check_saved(model, state, encode_tensors(state), model.peft_config_json())
    check_saved(model, state, encode_tensors(state), model.peft_config_json())
    assert tolerance(torch.tensor([-2.0, 1.0]), torch.bfloat16) == 4 * 2**-7 * 2.0
    assert tolerance(torch.tensor([-2.0, 1.0]), torch.float32) == 4 * 2**-23 * 2.0
