"""Bases in 8 and 4 bits through bitsandbytes, on its CPU backend: trained, told apart from their originals, saved and loaded."""

import sys

import torch
from peft import PeftModel
from pytest import fixture, mark, raises

from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.data.encoding import IGNORED, Encoded, collate
from actors.errors import ModelError
from actors.local_training import mean_response_loss, train_adapter
from actors.model.adapted import AdaptedModel, write_adapter
from actors.model.base import load_base
from actors.model.check import check_base
from actors.model.saved_adapter import check_saved
from actors.wire import encode_tensors
from tests.small_models import ATTENTION, save_model
from tests.unit.actors.model.test_lora import CPU, IDS, make_state

BITS = ["8bit", "4bit"]
LORA = LoraConfig(r=4, dropout=0.1, target_modules="all-linear")
BATCHES = [collate([Encoded((5, 6, 7, 8, 9), (IGNORED, IGNORED, 7, 8, 9)), Encoded((4, 9, 3), (IGNORED, IGNORED, 3))])] * 3


@fixture(scope="module")
def folder(tmp_path_factory):
    """4-bit weights come in blocks of 64 values."""
    return save_model(tmp_path_factory.mktemp("llama"), "llama", hidden_size=64, intermediate_size=128)


def config_of(folder, quantization, **changed) -> ModelConfig:
    return ModelConfig(path=str(folder), quantization=quantization, **changed)


def trained(model: AdaptedModel) -> bytes:
    """The adapter after three steps from the initial one."""
    for _ in train_adapter(model, model._initial, BATCHES, TrainingConfig(), learning_rate=0.01, seed=3):
        pass
    return encode_tensors(model.adapter_state())


@mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@mark.parametrize("bits", BITS)
def test_training_lowers_the_loss_and_does_not_depend_on_what_the_actor_did_before(folder, bits, dtype):
    fresh, used = (AdaptedModel(config_of(folder, bits, dtype=dtype), LORA, CPU) for _ in range(2))
    before = mean_response_loss(used, BATCHES)
    used.peft.generate(input_ids=IDS, max_new_tokens=2, do_sample=False)
    assert trained(used) == trained(fresh)
    assert mean_response_loss(used, BATCHES) < before - 0.05
    assert {tensor.dtype for tensor in used.adapter_state().values()} == {torch.float32}


@mark.parametrize("bits", BITS)
def test_the_linear_weights_are_held_in_these_bits_and_embeddings_and_head_are_not(folder, bits):
    base, _ = load_base(config_of(folder, bits, dtype="bfloat16"))
    plain, _ = load_base(config_of(folder, None, dtype="bfloat16"))
    for name, parameter in base.named_parameters():
        whole = plain.get_parameter(name)
        if parameter.dtype == torch.bfloat16:
            assert torch.equal(parameter, whole)
        else:
            assert parameter.numel() == whole.numel() // (1 if bits == "8bit" else 2)
    held = {name for name, parameter in base.named_parameters() if parameter.dtype in (torch.int8, torch.uint8)}
    assert held == {name for name, _ in plain.named_parameters() if name.endswith("proj.weight")}


@mark.parametrize("bits", BITS)
def test_the_quantised_weights_are_near_the_saved_ones(folder, bits):
    """8 bits: a row has steps of a 127th of its largest value, which is rounded to float16. 4 bits: the widest gap of NF4, from
    -1 to -0.696, is 0.304 of a block's largest value; double quantisation moves that value a little."""
    steps = load_base(config_of(folder, bits))[0].dequantize(dtype=torch.float32)
    plain, _ = load_base(config_of(folder, None))
    for name, parameter in plain.named_parameters():
        error, largest = (steps.get_parameter(name) - parameter).abs().max(), parameter.abs().max()
        assert error <= largest * (0.55 / 127 if bits == "8bit" else 0.16)
        assert error > 0 or not name.endswith("proj.weight")


@mark.parametrize("bits", BITS)
def test_peft_gives_the_logits_of_the_run_on_a_base_quantised_alike(folder, bits, tmp_path):
    model = AdaptedModel(config_of(folder, bits), LORA, CPU)
    state, config = make_state(model), model.peft_config_json()
    check_saved(model, state, encode_tensors(state), config)
    model.load_adapter(state)
    write_adapter(tmp_path / "adapter", encode_tensors(state), config)
    base, _ = load_base(config_of(folder, bits))
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
        found = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=IDS).logits
        assert torch.equal(found, model.peft(input_ids=IDS).logits)
    assert not torch.allclose(found, plain, atol=0.01)


def test_a_quantised_base_is_another_model_than_its_original_with_the_same_adapter(folder):
    layouts = [AdaptedModel(config_of(folder, bits), LORA, CPU).layout() for bits in (None, *BITS, *BITS)]
    prints = [layout.model_fingerprint for layout in layouts]
    assert len(set(prints)) == 3
    assert prints[1:3] == prints[3:]
    assert len({layout.lora_fingerprint for layout in layouts}) == 1
    assert all(layout.shapes == layouts[0].shapes for layout in layouts)


@mark.parametrize("kind", ["gpt2", "phi3"])
def test_layers_of_other_classes_are_trained_too(kind, tmp_path):
    config = config_of(save_model(tmp_path / kind, kind), "8bit")
    lora = LoraConfig(r=4, target_modules=ATTENTION[kind])
    model = AdaptedModel(config, lora, CPU)
    assert trained(model) != model.initial_adapter()
    assert check_base(config, lora).lora_tensors == len(model.adapter_parameters)


@mark.parametrize("bits", BITS)
def test_a_base_whose_files_are_quantised_trains_and_is_not_quantised_again(folder, bits, tmp_path):
    made, tokenizer = load_base(config_of(folder, bits))
    made.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    config = config_of(tmp_path / "saved", None)
    assert check_base(config, LORA).lora_tensors == 28
    model = AdaptedModel(config, LORA, CPU)
    assert trained(model) == trained(AdaptedModel(config_of(folder, bits), LORA, CPU))
    for call in (load_base, lambda config: check_base(config, LORA)):
        with raises(ModelError, match=r"quantised already .* leave model.quantization out"):
            call(config_of(tmp_path / "saved", bits))


def test_without_the_library_key_value_and_fix_are_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for call in (load_base, lambda config: check_base(config, LORA)):
        with raises(ModelError, match=r"^model.quantization=8bit needs bitsandbytes.*pip install 'safe-fedllm\[bitsandbytes\]'"):
            call(config_of(folder, "8bit"))
    load_base(config_of(folder, None))


def test_rows_that_4_bits_get_wrong_on_a_cpu_are_refused_by_name(tmp_path):
    narrow = save_model(tmp_path / "narrow", "llama", hidden_size=96)
    with raises(ModelError, match=r"q_proj has rows of 96 values.*a multiple of 64; use a GPU, model.quantization=8bit"):
        load_base(config_of(narrow, "4bit"))
    load_base(config_of(narrow, "8bit"))
