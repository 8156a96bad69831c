"""The base model with its LoRA: one initial adapter everywhere, states that swap to the bit, errors that name the culprit."""

import json
import math
import re
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from pytest import approx, fixture, mark, raises
from transformers import AutoModelForCausalLM

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.model.adapted import AdaptedModel, write_adapter
from actors.model.base import load_base
from actors.wire import decode_tensors, encode_tensors

ALL_LINEAR = LoraConfig(target_modules="all-linear")
IDS = torch.tensor([[5, 70, 81, 12, 260, 33], [9, 9, 120, 4, 1, 200]])


def make_model(base: Path, lora: LoraConfig = ALL_LINEAR, **config) -> AdaptedModel:
    return AdaptedModel(ModelConfig(path=str(base), **config), lora, torch.device("cpu"))


def make_state(model: AdaptedModel, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) / 4 for name, p in model.adapter_parameters.items()}


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@fixture(scope="module")
def model(tiny_base) -> AdaptedModel:
    """Tests that change its adapter load the state they need themselves."""
    return make_model(tiny_base)


def test_the_layout_has_two_factors_of_rank_r_for_each_target_with_their_layers(tiny_base):
    layout = make_model(tiny_base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).layout()
    layers = [f"base_model.model.model.layers.{layer}" for layer in (0, 1)]
    assert layout.shapes == {
        **{f"{layer}.self_attn.q_proj.lora_A.weight": (4, 32) for layer in layers},
        **{f"{layer}.self_attn.q_proj.lora_B.weight": (32, 4) for layer in layers},
        **{f"{layer}.mlp.down_proj.lora_A.weight": (4, 64) for layer in layers},
        **{f"{layer}.mlp.down_proj.lora_B.weight": (32, 4) for layer in layers},
    }
    assert list(layout.shapes) == sorted(layout.shapes)
    assert layout.layers == {name: int(re.search(r"\.layers\.(\d)\.", name)[1]) for name in layout.shapes}


def test_only_the_adapter_is_trainable(model):
    trainable = {id(parameter) for parameter in model.peft.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in model.adapter_parameters.values()}


def test_a_new_model_holds_the_initial_adapter_whatever_the_instance_and_what_was_loaded(tiny_base, model):
    torch.manual_seed(123)
    other = make_model(tiny_base)
    assert encode_tensors(other.adapter_state()) == other.initial_adapter()
    model.load_adapter(make_state(model))
    assert other.initial_adapter() == model.initial_adapter()


def test_initially_b_is_zero_and_a_is_uniform_within_one_over_root_fan_in(tiny_base, model):
    initial = decode_tensors(model.initial_adapter())
    for name, tensor in initial.items():
        if ".lora_B." in name:
            assert not tensor.any()
            continue
        bound = 1 / math.sqrt(tensor.shape[1])
        assert 0.9 * bound < tensor.abs().max() <= bound
        assert float(tensor.std()) == approx(bound / math.sqrt(3), rel=0.15)
        assert abs(float(tensor.mean())) < 0.15 * bound
    assert len({tensor.numpy().tobytes() for name, tensor in initial.items() if ".lora_A." in name}) == 14
    model.load_adapter(initial)
    torch.testing.assert_close(logits_of(model.peft), logits_of(AutoModelForCausalLM.from_pretrained(tiny_base)))


def test_a_loaded_state_changes_the_answers_and_comes_back_to_the_bit_as_a_copy(model):
    state, other = make_state(model, seed=1), make_state(model, seed=2)
    state[min(state)][0, :3] = torch.tensor([-0.0, 1e-45, 3e38])
    model.load_adapter(state)
    returned, said = model.adapter_state(), logits_of(model.peft)
    model.load_adapter(other)
    assert encode_tensors(returned) == encode_tensors(state)
    assert not torch.equal(logits_of(model.peft), said)
    model.adapter_state()[min(state)].fill_(7.0)
    assert encode_tensors(model.adapter_state()) == encode_tensors(other)


def test_a_state_with_other_keys_is_refused_by_name_and_leaves_the_adapter_as_it_was(model):
    state = make_state(model)
    model.load_adapter(state)
    missing = {name: tensor for name, tensor in make_state(model, seed=2).items() if name != min(state)}
    for wrong in (missing, {**state, "extra.lora_A.weight": torch.zeros(1)}, {}):
        with raises(ModelError, match=re.escape(sorted(set(wrong) ^ set(state))[0])):
            model.load_adapter(wrong)
    assert encode_tensors(model.adapter_state()) == encode_tensors(state)


@mark.parametrize(
    "changed", [{"r": 4}, {"alpha": 32}, {"rslora": True}, {"init_seed": 1}, {"target_modules": ["q_proj", "v_proj"]}]
)
def test_the_lora_fingerprint_follows_the_settings(tiny_base, model, changed):
    layout = make_model(tiny_base, LoraConfig(**{"target_modules": "all-linear", **changed})).layout()
    assert layout.lora_fingerprint != model.layout().lora_fingerprint
    assert layout.model_fingerprint == model.layout().model_fingerprint


def test_the_layout_follows_the_weights_and_nothing_else(write_base, tmp_path, model):
    model.load_adapter(make_state(model))
    alpha = LoraConfig(target_modules="all-linear", alpha=16.0)
    copy, other = write_base(tmp_path / "copy"), write_base(tmp_path / "other", seed=1)
    for same in (make_model(copy), make_model(copy, dtype="bfloat16"), make_model(copy, alpha)):
        assert same.layout() == model.layout()
    assert make_model(other).layout().model_fingerprint != model.layout().model_fingerprint
    assert make_model(other).layout().lora_fingerprint == model.layout().lora_fingerprint


@mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_adapter_is_float32_whatever_the_base_is(tiny_base, model, dtype):
    half = make_model(tiny_base, dtype=dtype)
    assert {p.dtype for p in half.peft.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    assert {tensor.dtype for tensor in half.adapter_state().values()} == {torch.float32}
    assert half.initial_adapter() == model.initial_adapter()


@mark.parametrize("broken", ["no path", "no folder", "no config", "no model type", "vit", "no weights", "no tokenizer"])
def test_a_model_that_does_not_load_is_named(tiny_base, tmp_path, broken):
    folder = tmp_path / "base"
    if broken != "no folder":
        shutil.copytree(tiny_base, folder)
    lost = {"no config": "config.json", "no weights": "model.safetensors", "no tokenizer": "tokenizer.json"}.get(broken)
    if lost:
        (folder / lost).unlink()
    written = {"no model type": "{}", "vit": '{"model_type": "vit"}'}.get(broken)
    if written:
        (folder / "config.json").write_text(written)
    path = None if broken == "no path" else str(folder)
    complaint = "model.path is not set" if path is None else f"model.path={path} does not load as a causal language model"
    with raises(ModelError, match=re.escape(complaint)):
        load_base(ModelConfig(path=path))


@mark.parametrize("targets", [["no_such_projection"], ["norm"], []])
def test_target_modules_that_do_not_fit_are_named(tiny_base, targets):
    with raises(ModelError, match=re.escape(f"lora.target_modules={targets} does not fit the model")):
        make_model(tiny_base, LoraConfig(target_modules=targets))


@mark.parametrize("targets", ["all-linear", ["q_proj"]])
def test_a_written_adapter_loads_in_peft_and_adds_alpha_over_r_times_b_a(tiny_base, tmp_path, targets):
    model = make_model(tiny_base, LoraConfig(r=4, alpha=6, target_modules=targets))
    state = make_state(model)
    model.load_adapter(state)
    write_adapter(tmp_path / "round-3" / "adapter", encode_tensors(model.adapter_state()), model.peft_config_json())
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "round-3" / "adapter").eval()
    assert torch.equal(logits_of(loaded), logits_of(model.peft))
    merged = AutoModelForCausalLM.from_pretrained(tiny_base)
    with torch.no_grad():
        for name in (name for name in state if ".lora_A." in name):
            module = merged.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight += 6 / 4 * state[name.replace("lora_A", "lora_B")] @ state[name]
    torch.testing.assert_close(logits_of(model.peft), logits_of(merged), atol=1e-4, rtol=1e-4)


def test_the_adapter_config_is_json_and_equal_on_every_instance(tiny_base, model):
    text = model.peft_config_json()
    config = json.loads(text)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.05)
    assert config["base_model_name_or_path"] == str(tiny_base)
    assert config["inference_mode"] is True
    assert make_model(tiny_base).peft_config_json() == text
