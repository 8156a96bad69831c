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
from actors.model import AdaptedModel, load_base, write_adapter
from actors.wire import decode_tensors, encode_tensors

CPU = torch.device("cpu")
ALL_LINEAR = LoraConfig(target_modules="all-linear")
IDS = torch.tensor([[5, 70, 81, 12, 260, 33], [9, 9, 120, 4, 1, 200]])


def make_model(base: Path, lora: LoraConfig = ALL_LINEAR, **config) -> AdaptedModel:
    return AdaptedModel(ModelConfig(path=str(base), **config), lora, CPU)


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


def test_the_adapter_has_two_factors_of_rank_r_for_each_target(tiny_base):
    shapes = make_model(tiny_base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).layout().shapes
    layers = [f"base_model.model.model.layers.{layer}" for layer in (0, 1)]
    assert shapes == {
        **{f"{layer}.self_attn.q_proj.lora_A.weight": (4, 32) for layer in layers},
        **{f"{layer}.self_attn.q_proj.lora_B.weight": (32, 4) for layer in layers},
        **{f"{layer}.mlp.down_proj.lora_A.weight": (4, 64) for layer in layers},
        **{f"{layer}.mlp.down_proj.lora_B.weight": (32, 4) for layer in layers},
    }
    assert list(shapes) == sorted(shapes)


def test_all_linear_targets_the_seven_projections_of_each_layer(model):
    assert len(model.adapter_parameters) == 2 * 7 * 2


def test_every_parameter_knows_its_layer(model):
    assert set(model.layers) == set(model.adapter_parameters)
    assert all(int(re.search(r"\.layers\.(\d)\.", name)[1]) == layer for name, layer in model.layers.items())
    assert model.layout().layers == model.layers


def test_only_the_adapter_is_trainable(model):
    trainable = {id(parameter) for parameter in model.peft.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in model.adapter_parameters.values()}


def test_the_initial_adapter_does_not_depend_on_the_instance(tiny_base, model):
    torch.manual_seed(123)
    other = make_model(tiny_base)
    assert other.initial_adapter() == model.initial_adapter()
    assert encode_tensors(other.adapter_state()) == other.initial_adapter(), "a new model holds the initial adapter"


def test_the_initial_adapter_does_not_follow_what_was_loaded(model):
    before = model.initial_adapter()
    model.load_adapter(make_state(model))
    assert model.initial_adapter() == before


def test_initially_b_is_zero_and_a_is_uniform_within_one_over_root_fan_in(model):
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


def test_the_initial_adapter_leaves_the_base_model_as_it_is(tiny_base, model):
    model.load_adapter(decode_tensors(model.initial_adapter()))
    torch.testing.assert_close(logits_of(model.peft), logits_of(AutoModelForCausalLM.from_pretrained(tiny_base)))


def test_a_loaded_state_comes_back_to_the_bit(model):
    state = make_state(model)
    state[min(state)][0, :3] = torch.tensor([-0.0, 1e-45, 3e38])
    model.load_adapter(state)
    assert encode_tensors(model.adapter_state()) == encode_tensors(state)


def test_a_returned_state_is_a_copy(model):
    model.load_adapter(make_state(model, seed=1))
    before = model.adapter_state()
    kept = encode_tensors(before)
    model.load_adapter(make_state(model, seed=2))
    assert encode_tensors(before) == kept
    before[min(before)].fill_(7.0)
    assert encode_tensors(model.adapter_state()) == encode_tensors(make_state(model, seed=2))


def test_a_loaded_state_changes_what_the_model_says(model):
    model.load_adapter(make_state(model, seed=1))
    one = logits_of(model.peft)
    model.load_adapter(make_state(model, seed=2))
    assert (logits_of(model.peft) - one).abs().max() > 0.01
    model.load_adapter(make_state(model, seed=1))
    assert torch.equal(logits_of(model.peft), one)


def test_the_adapter_adds_alpha_over_r_times_b_a(tiny_base):
    model = make_model(tiny_base, LoraConfig(r=4, alpha=6, target_modules=["q_proj"]))
    state = make_state(model)
    model.load_adapter(state)
    merged = AutoModelForCausalLM.from_pretrained(tiny_base)
    with torch.no_grad():
        for layer in (0, 1):
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            delta = 6 / 4 * state[f"{name}.lora_B.weight"] @ state[f"{name}.lora_A.weight"]
            merged.model.layers[layer].self_attn.q_proj.weight += delta
    torch.testing.assert_close(logits_of(model.peft), logits_of(merged), atol=1e-4, rtol=1e-4)


def test_a_state_with_other_keys_is_refused_by_name(model):
    state = make_state(model)
    first, *_ = sorted(state)
    missing = {name: tensor for name, tensor in state.items() if name != first}
    for wrong in (missing, {**state, "extra.lora_A.weight": torch.zeros(1)}, {}):
        odd = sorted(set(wrong) ^ set(state))[0]
        with raises(ModelError, match=re.escape(odd)):
            model.load_adapter(wrong)


def test_a_refused_state_leaves_the_adapter_as_it_was(model):
    model.load_adapter(make_state(model))
    with raises(ModelError):
        model.load_adapter({"extra": torch.zeros(1)})
    assert encode_tensors(model.adapter_state()) == encode_tensors(make_state(model))


@mark.parametrize(
    "changed",
    [
        {"r": 4},
        {"alpha": 32},
        {"init_seed": 1},
        {"target_modules": ["q_proj", "v_proj"]},
    ],
)
def test_the_lora_fingerprint_follows_the_settings(tiny_base, model, changed):
    layout = make_model(tiny_base, LoraConfig(**{"target_modules": "all-linear", **changed})).layout()
    assert layout.lora_fingerprint != model.layout().lora_fingerprint
    assert layout.model_fingerprint == model.layout().model_fingerprint


def test_the_lora_fingerprint_does_not_depend_on_how_a_number_is_written(tiny_base, model):
    written_out = make_model(tiny_base, LoraConfig(target_modules="all-linear", alpha=16.0)).layout()
    assert written_out.lora_fingerprint == model.layout().lora_fingerprint


def test_the_layout_is_equal_on_every_instance(tiny_base, model):
    model.load_adapter(make_state(model))
    assert make_model(tiny_base).layout() == model.layout()


def test_the_model_fingerprint_follows_the_base_weights(write_base, tmp_path, model):
    other = make_model(write_base(tmp_path / "other", seed=1)).layout()
    assert other.model_fingerprint != model.layout().model_fingerprint
    assert other.lora_fingerprint == model.layout().lora_fingerprint


def test_the_model_fingerprint_follows_the_weights_not_the_folder(write_base, tmp_path, model):
    assert make_model(write_base(tmp_path / "copy")).layout() == model.layout()


def test_the_model_fingerprint_is_the_same_in_bfloat16(tiny_base, model):
    assert make_model(tiny_base, dtype="bfloat16").layout() == model.layout()


@mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_adapter_is_float32_whatever_the_base_is(tiny_base, model, dtype):
    half = make_model(tiny_base, dtype=dtype)
    assert {p.dtype for p in half.peft.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    assert {tensor.dtype for tensor in half.adapter_state().values()} == {torch.float32}
    assert half.initial_adapter() == model.initial_adapter()


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(tiny_base, tmp_path):
    shutil.copytree(tiny_base, tmp_path / "base")
    config = tmp_path / "base" / "tokenizer_config.json"
    settings = {name: value for name, value in json.loads(config.read_text()).items() if name != "pad_token"}
    config.write_text(json.dumps(settings))
    _, tokenizer = load_base(ModelConfig(path=str(tmp_path / "base")))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_a_model_without_a_path_is_refused():
    with raises(ModelError, match=r"model\.path is not set"):
        load_base(ModelConfig(path=None))


@mark.parametrize("config", [None, "{", "{}", "[]", '{"model_type": "vit"}', '{"model_type": "no-such-model"}'])
def test_a_folder_that_is_no_causal_language_model_is_named(tmp_path, config):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with raises(ModelError, match=re.escape(f"model.path={tmp_path} does not load as a causal language model")):
        load_base(ModelConfig(path=str(tmp_path)))


@mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
def test_a_model_without_its_weights_or_tokenizer_is_named(tiny_base, tmp_path, lost):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    (folder / lost).unlink()
    with raises(ModelError, match=re.escape(f"model.path={folder}")):
        load_base(ModelConfig(path=str(folder)))


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with raises(ModelError, match=re.escape(f"model.path={tmp_path / 'nowhere'}")):
        load_base(ModelConfig(path=str(tmp_path / "nowhere")))


@mark.parametrize("targets", [["no_such_projection"], ["norm"], ["self_attn"], []])
def test_target_modules_that_do_not_fit_are_named(tiny_base, targets):
    with raises(ModelError, match=re.escape(f"lora.target_modules={targets} does not fit the model")):
        make_model(tiny_base, LoraConfig(target_modules=targets))


@mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_a_written_adapter_loads_in_peft_and_says_the_same(tiny_base, tmp_path, targets):
    model = make_model(tiny_base, LoraConfig(r=4, alpha=6, target_modules=targets))
    model.load_adapter(make_state(model))
    write_adapter(tmp_path / "round-3" / "adapter", encode_tensors(model.adapter_state()), model.peft_config_json())
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), tmp_path / "round-3" / "adapter").eval()
    assert torch.equal(logits_of(loaded), logits_of(model.peft))
    assert (logits_of(loaded) - logits_of(AutoModelForCausalLM.from_pretrained(tiny_base))).abs().max() > 0.01


def test_the_adapter_config_is_json_and_equal_on_every_instance(tiny_base, model):
    text = model.peft_config_json()
    config = json.loads(text)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.05)
    assert config["base_model_name_or_path"] == str(tiny_base)
    assert config["inference_mode"] is True
    assert make_model(tiny_base).peft_config_json() == text
