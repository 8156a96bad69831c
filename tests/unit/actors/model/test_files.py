"""Broken bases: each fault of a file is one line that names it, in the load and in the check that reads no weights."""

import json
from pathlib import Path

import torch
from pytest import fixture, mark, raises
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from actors.config import LoraConfig, ModelConfig
from actors.errors import ModelError
from actors.model.adapted import AdaptedModel, write_adapter
from actors.model.base import load_base, read_limits
from actors.model.check import check_base
from actors.model.lora import attach
from actors.wire import encode_tensors
from tests.small_models import save_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
SHARDS = sorted(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))


@fixture
def base(tmp_path) -> Path:
    return save_model(tmp_path / "base", "llama")


@fixture
def sharded(base) -> Path:
    """The same in two shards."""
    model = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="200KB")
    assert [path.name for path in sorted(base.glob("*.safetensors"))] == SHARDS
    return base


def complaints(folder: Path, **config) -> list[str]:
    """What the load and the check say; both must refuse, in one line that begins with the path."""
    said, model = [], ModelConfig(path=str(folder), **config)
    for call in (lambda: load_base(model), lambda: check_base(model, LoraConfig())):
        with raises(ModelError) as caught:
            call()
        assert str(caught.value).startswith(f"model.path={folder} ")
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None
        said.append(str(caught.value))
    return said


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_is_named_with_its_fix(base, name):
    (base / name).write_text(POINTER)
    for said in complaints(base):
        assert f"{base / name} is a Git LFS pointer" in said
        assert "git lfs pull" in said


@mark.parametrize("index", [0, 1])
def test_a_shard_that_is_cut_off_is_named(sharded, index):
    shard = sharded / SHARDS[index]
    shard.write_bytes(shard.read_bytes()[:-100])
    for said in complaints(sharded):
        assert f"{shard} is cut off or damaged" in said


def test_a_missing_shard_and_a_tensor_that_its_shard_lacks_are_named(sharded):
    tensors = load_file(sharded / SHARDS[1])
    lost = min(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, sharded / SHARDS[1], metadata={"format": "pt"})
    assert all(f"{SHARDS[1]} lacks {lost}, which" in said for said in complaints(sharded))
    (sharded / SHARDS[1]).unlink()
    assert all(f"{sharded / SHARDS[1]} is missing" in said for said in complaints(sharded))


@mark.parametrize("changed", [{"vocab_size": 1000}, {"intermediate_size": 32}])
def test_weights_of_other_sizes_than_the_configuration_are_refused(base, changed):
    change_config(base, **changed)
    assert all("other sizes than config.json" in said for said in complaints(base))
    with raises(ModelError, match="other sizes"):
        read_limits(ModelConfig(path=str(base)))


def test_weights_that_lack_a_tensor_are_refused_and_tied_ones_lack_none(base, tmp_path):
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert all("model.layers.1.self_attn.q_proj.weight, which would be random" in said for said in complaints(base))
    tied = save_model(tmp_path / "tied", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_base(ModelConfig(path=str(tied)))
    check_base(ModelConfig(path=str(tied)), LoraConfig())


@mark.parametrize(
    ("quantised", "library"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
    ],
)
def test_a_base_that_needs_an_absent_quantisation_library_is_refused(base, quantised, library):
    change_config(base, quantization_config=quantised)
    for said in complaints(base):
        assert f"pip install {library}" in said.replace("-U ", "")


def test_pickled_weights_that_are_cut_off_are_named_and_whole_ones_load(base):
    torch.save(AutoModelForCausalLM.from_pretrained(base).state_dict(), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    load_base(ModelConfig(path=str(base)))
    check_base(ModelConfig(path=str(base)), LoraConfig())
    whole = (base / "pytorch_model.bin").read_bytes()
    (base / "pytorch_model.bin").write_bytes(whole[:-500])
    assert all("pytorch_model.bin is cut off" in said for said in complaints(base))


def test_code_of_the_model_is_never_run_and_never_asked_for(base, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: (_ for _ in ()).throw(AssertionError("asked")))
    (base / "own.py").write_text(f"open({str(base / 'ran')!r}, 'w')")
    change_config(base, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    complaints(base)
    assert not (base / "ran").exists()


def test_an_adapter_in_the_directory_is_refused_before_weights_load(base):
    model = AdaptedModel(ModelConfig(path=str(base)), LoraConfig(), torch.device("cpu"))
    write_adapter(base, encode_tensors(model.adapter_state()), model.peft_config_json())
    for said in complaints(base):
        assert f"{base / 'adapter_config.json'} makes the base an adapter; merge it" in said
    for name in ("config.json", "model.safetensors"):
        (base / name).unlink()
    assert all("merge it" in said for said in complaints(base))


def test_an_attention_that_the_class_lacks_names_the_key(tmp_path):
    folder = save_model(tmp_path / "gemma", "gemma2")
    assert all("set model.attention=eager" in said for said in complaints(folder))


def test_limits_are_those_of_the_weights_and_of_nested_text_configurations(tmp_path):
    padded = save_model(tmp_path / "padded", "qwen2", vocab_size=1024, max_position_embeddings=128)
    limits = read_limits(ModelConfig(path=str(padded)))
    assert (limits.embeddings, limits.positions) == (1024, 128)
    for kind in ("gpt2", "opt", "gemma3_text"):
        limits = read_limits(ModelConfig(path=str(save_model(tmp_path / kind, kind))))
        assert (limits.embeddings, limits.positions) == (960, 256)


def test_what_lies_outside_the_text_model_is_not_trained(tmp_path):
    from transformers import AutoConfig

    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = AutoConfig.for_model("gemma3", text_config={**text, "vocab_size": 960}, vision_config=vision, image_token_index=5)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
        with raises(ModelError, match=r"vision_tower.*which text never reaches"):
            attach(base, LoraConfig())
