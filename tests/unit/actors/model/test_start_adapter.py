"""rsLoRA and adapters to continue from: what PEFT saves is the initial adapter, and what does not fit is refused by name."""

import json
import re

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.model.adapted import AdaptedModel, write_adapter
from actors.model.check import check_base
from actors.model.saved_adapter import check_saved
from actors.wire import decode_tensors, encode_tensors
from tests.small_models import save_model

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 70, 81, 12, 260, 33], [9, 9, 120, 4, 1, 200]])
LORA = LoraConfig(r=4, alpha=6)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("start") / "base", "llama")


@pytest.fixture
def saved(base, tmp_path):
    """Saves an adapter by PEFT itself, with values in A and B, and returns its folder and the logits that it gives."""

    def save(**changed):
        torch.manual_seed(3)
        settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **changed}
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), PeftLoraConfig(**settings)).eval()
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.25)
        model.save_pretrained(tmp_path / "adapter")
        with torch.no_grad():
            return tmp_path / "adapter", model(input_ids=IDS).logits

    return save


def adapted(base, lora):
    return AdaptedModel(ModelConfig(path=str(base)), lora, CPU)


def starting(folder, **changed):
    return LORA.model_copy(update={"start_from": str(folder), **changed})


def test_rslora_scales_by_the_root_of_the_rank_and_peft_gives_the_runs_logits(base, tmp_path):
    model = adapted(base, LORA.model_copy(update={"rslora": True}))
    scalings = {m.scaling["default"] for m in model.peft.modules() if isinstance(getattr(m, "scaling", None), dict)}
    assert scalings == {6 / 4**0.5}
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(p.shape, generator=generator) / 4 for name, p in model.adapter_parameters.items()}
    model.load_adapter(state)
    check_saved(model, state, encode_tensors(state), model.peft_config_json())
    write_adapter(tmp_path / "adapter", encode_tensors(state), model.peft_config_json())
    plain = adapted(base, LORA)
    plain.load_adapter(state)
    with torch.no_grad():
        expected, other = (m.peft(input_ids=IDS).logits for m in (model, plain))
        found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()(input_ids=IDS)
    assert torch.equal(found.logits, expected)
    assert not torch.allclose(other, expected, atol=0.01)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_run_starts_from_what_peft_saved(base, saved, rslora):
    folder, logits = saved(use_rslora=rslora)
    lora = starting(folder, rslora=rslora)
    model, fresh = adapted(base, lora), adapted(base, LORA.model_copy(update={"rslora": rslora}))
    initial, kept = decode_tensors(model.initial_adapter()), load_file(folder / "adapter_model.safetensors")
    assert set(initial) == set(kept) and all(torch.equal(initial[name], kept[name]) for name in kept)
    with torch.no_grad():
        assert torch.equal(model.peft(input_ids=IDS).logits, logits)
    assert model.layout().model_fingerprint == fresh.layout().model_fingerprint
    assert model.layout().lora_fingerprint != fresh.layout().lora_fingerprint
    assert check_base(ModelConfig(path=str(base)), lora).lora_tensors == len(kept)


def test_an_adapter_of_a_run_is_one_to_continue_from_in_half_precision_too(base, tmp_path):
    model = adapted(base, LORA)
    state = {name: torch.ones_like(p).bfloat16() for name, p in model.adapter_parameters.items()}
    write_adapter(tmp_path, encode_tensors({name: t.float() for name, t in state.items()}), model.peft_config_json())
    save_file(state, tmp_path / "adapter_model.safetensors")
    initial = decode_tensors(adapted(base, starting(tmp_path)).initial_adapter())
    assert all(tensor.dtype == torch.float32 and bool((tensor == 1).all()) for tensor in initial.values())


@pytest.mark.parametrize(
    ("saved_with", "run_with", "message"),
    [
        ({"r": 8}, {}, "it has r=8, the run 4; set lora.r=8"),
        ({"lora_alpha": 3}, {}, "it has lora_alpha=3, the run 6.0; set lora.alpha=3"),
        ({}, {"rslora": True}, "it has use_rslora=False, the run True; set lora.rslora=false"),
        ({"use_dora": True}, {}, "it has use_dora=True, which no adapter of a run has"),
        ({"rank_pattern": {"q_proj": 2}}, {}, "it has rank_pattern={'q_proj': 2}, which no adapter"),
        ({"modules_to_save": ["lm_head"]}, {}, "it has modules_to_save=['lm_head'], which no adapter"),
        ({"target_modules": ["q_proj"]}, {}, "the run alone has base_model.model.model.layers.0.self_attn.v_proj"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, {}, "it alone has base_model.model.model.layers.0.self_attn.o_proj"),
    ],
)
def test_other_settings_are_refused_by_name_with_and_without_weights(base, saved, saved_with, run_with, message):
    folder, _ = saved(**saved_with)
    for load in (lambda lora: adapted(base, lora), lambda lora: check_base(ModelConfig(path=str(base)), lora)):
        with pytest.raises(ModelError, match=re.escape(f"lora.start_from={folder}: ") + ".*" + re.escape(message)):
            load(starting(folder, **run_with))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_model_name_or_path": "org/another"}, "it was trained on org/another, and model.path="),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the base"),
        ({"some_new_variant": {"a": 1}}, "it has some_new_variant={'a': 1}, which no adapter"),
        ({"peft_type": "LOHA"}, "it has peft_type='LOHA', which no adapter"),
    ],
)
def test_another_base_or_kind_is_refused_and_the_same_name_elsewhere_is_not(base, saved, settings, message):
    folder, _ = saved()
    file = folder / "adapter_config.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {"base_model_name_or_path": "/moved/base"}))
    adapted(base, starting(folder))
    file.write_text(json.dumps(known | settings))
    with pytest.raises(ModelError, match=re.escape(message)):
        adapted(base, starting(folder))


def test_missing_keys_mean_pefts_defaults(base, saved):
    folder, _ = saved()
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "lora_alpha"}))
    with pytest.raises(ModelError, match="it has lora_alpha=8, the run 6"):
        adapted(base, starting(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.fill_(float("nan")), "lora_A.weight holds values that are no finite numbers"),
        (lambda t: t.long(), "lora_A.weight holds values that are no finite numbers"),
        (lambda t: t[:, :5].contiguous(), r"has shape \(4, 5\) and should have \(4, 32\)"),
    ],
)
def test_values_that_do_not_fit_are_refused(base, saved, change, message):
    folder, _ = saved()
    tensors = load_file(folder / "adapter_model.safetensors")
    first = min(tensors)
    save_file({**tensors, first: change(tensors[first])}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=message):
        adapted(base, starting(folder))


def test_files_that_are_missing_or_broken_are_named(base, saved, tmp_path):
    with pytest.raises(ModelError, match=r"adapter_config\.json cannot be read"):
        adapted(base, starting(tmp_path / "none"))
    folder, _ = saved()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors cannot be read"):
        adapted(base, starting(folder))
    weights.unlink()
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors; adapters of other formats are not read"):
        adapted(base, starting(folder))


@pytest.mark.parametrize("key", ["dora", "use_dora"])
def test_dora_is_refused_by_name(key):
    with pytest.raises(ValueError, match=f"lora.{key}=True: DoRA trains a third tensor a module"):
        LoraConfig.model_validate({key: True})
