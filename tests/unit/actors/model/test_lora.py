"""LoRA as configured, on small models of the real classes: pairs alone are trained, and files hold what was trained."""

import re

import torch
from peft import PeftModel
from pytest import fixture, mark, raises
from transformers import AutoModelForCausalLM

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.model.adapted import AdaptedModel, write_adapter
from actors.model.check import check_base
from actors.wire import encode_tensors
from tests.small_models import ATTENTION, SHAPES, save_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 70, 81, 12, 260, 33], [9, 9, 120, 4, 1, 200]])


def config_of(kind: str, folder, dtype: str = "float32") -> ModelConfig:
    return ModelConfig(path=str(folder), dtype=dtype, attention="eager" if kind == "gemma2" else "sdpa")


def make_state(model: AdaptedModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(p.shape, generator=generator) / 4 for name, p in model.adapter_parameters.items()}


@fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@mark.parametrize("targets", ["attention", "all-linear"])
@mark.parametrize("kind", SHAPES)
def test_each_class_trains_pairs_alone_and_its_saved_adapter_gives_the_runs_logits_on_the_clean_base(tmp_path, kind, targets):
    folder = save_model(tmp_path / "base", kind)
    config = config_of(kind, folder)
    lora = LoraConfig(r=4, target_modules=ATTENTION[kind] if targets == "attention" else targets)
    model = AdaptedModel(config, lora, CPU)
    modules = {name.rpartition(".lora_")[0] for name in model.adapter_parameters}
    assert set(model.adapter_parameters) == {f"{module}.lora_{factor}.weight" for module in modules for factor in "AB"}
    if targets == "attention":
        assert len(modules) == 2 * len(ATTENTION[kind]) or kind == "gpt2"
    assert model.layers == {name: int(re.search(r"\.(\d)\.", name)[1]) for name in model.adapter_parameters}
    report = check_base(config, lora)
    assert report.lora_tensors == len(model.adapter_parameters)
    assert report.lora_values == sum(p.numel() for p in model.adapter_parameters.values())
    state = make_state(model)
    model.load_adapter(state)
    write_adapter(tmp_path / "adapter", encode_tensors(state), model.peft_config_json())
    base = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=config.attention)
    with torch.no_grad():
        expected, plain = model.peft(input_ids=IDS).logits, base.eval()(input_ids=IDS).logits
        found = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=IDS).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(plain, expected, atol=0.01)


@mark.parametrize(("target", "near"), [("gate_porj", "gate_proj"), ("q_prj", "q_proj"), ("xyz", "down_proj, gate_proj")])
def test_a_target_that_matches_nothing_is_named_with_near_names(llama, target, near):
    lora = LoraConfig(target_modules=["q_proj", target])
    for call in (lambda: AdaptedModel(config_of("llama", llama), lora, CPU), lambda: check_base(config_of("llama", llama), lora)):
        with raises(ModelError, match=f"lora.target_modules: '{target}' matches no module of LlamaForCausalLM; it has.*{near}"):
            call()


@mark.parametrize(("kind", "target", "named"), [("llama", "embed_tokens", "Embedding"), ("gpt2", "wpe", "Embedding")])
def test_a_module_that_has_no_pair_of_factors_is_named(tmp_path, kind, target, named):
    lora = LoraConfig(target_modules=[*ATTENTION[kind], target])
    with raises(ModelError, match=rf"lora.target_modules: \S*{target} \({named}\) cannot be trained"):
        AdaptedModel(config_of(kind, save_model(tmp_path / "base", kind)), lora, CPU)
