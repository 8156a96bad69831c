"""probe/layers.py: the layer of each LoRA module, read from real peft models and from hand-made module trees."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from probe.layers import layer_of_modules


def llama(num_layers: int = 3, **lora) -> nn.Module:
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=32,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, task_type="CAUSAL_LM", **lora))


def gpt2(**lora) -> nn.Module:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=32, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        return get_peft_model(GPT2LMHeadModel(config), LoraConfig(r=2, task_type="CAUSAL_LM", fan_in_fan_out=True, **lora))


class Adapted(nn.Module):
    """A module that looks like one of peft's LoRA layers."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_B = nn.ModuleDict({"default": nn.Linear(1, 1)})


def block(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def test_llama_layers_are_numbered_from_0():
    assert layer_of_modules(llama(target_modules=["q_proj", "down_proj"])) == {
        "base_model.model.model.layers.0.self_attn.q_proj": 0,
        "base_model.model.model.layers.0.mlp.down_proj": 0,
        "base_model.model.model.layers.1.self_attn.q_proj": 1,
        "base_model.model.model.layers.1.mlp.down_proj": 1,
        "base_model.model.model.layers.2.self_attn.q_proj": 2,
        "base_model.model.model.layers.2.mlp.down_proj": 2,
    }


def test_every_linear_module_of_a_llama_layer_has_a_layer():
    # 7 linear modules a layer: q, k, v, o, gate, up, down.
    layers = layer_of_modules(llama(num_layers=2, target_modules="all-linear"))
    assert sorted(layers.values()) == [0] * 7 + [1] * 7


def test_gpt2_layers_are_found_under_their_own_name():
    assert layer_of_modules(gpt2(target_modules=["c_attn"])) == {
        "base_model.model.transformer.h.0.attn.c_attn": 0,
        "base_model.model.transformer.h.1.attn.c_attn": 1,
    }


def test_modules_outside_the_layers_are_left_out():
    model = llama(num_layers=2, target_modules=["v_proj", "lm_head", "embed_tokens"])
    adapted = [name for name, _ in model.named_modules() if name.endswith(("lm_head", "embed_tokens"))]
    assert len(adapted) == 2  # both are there, and neither is in the map
    assert layer_of_modules(model) == {
        "base_model.model.model.layers.0.self_attn.v_proj": 0,
        "base_model.model.model.layers.1.self_attn.v_proj": 1,
    }


def test_a_lora_outside_the_layers_only_gives_an_empty_map():
    assert layer_of_modules(llama(num_layers=2, target_modules=["lm_head"])) == {}


def test_a_model_without_lora_gives_an_empty_map():
    assert layer_of_modules(nn.ModuleList([nn.Linear(1, 1)])) == {}


def test_layers_keep_their_number_when_only_some_have_a_lora():
    assert layer_of_modules(llama(target_modules=["q_proj"], layers_to_transform=[1, 2])) == {
        "base_model.model.model.layers.1.self_attn.q_proj": 1,
        "base_model.model.model.layers.2.self_attn.q_proj": 2,
    }


def test_numbers_of_two_digits_are_read_whole():
    model = block(h=nn.ModuleList(block(proj=Adapted()) for _ in range(12)))
    assert layer_of_modules(model) == {f"h.{i}.proj": i for i in range(12)}


def test_lists_without_a_lora_are_passed_over():
    model = block(pieces=nn.ModuleList([nn.Linear(1, 1)]), blocks=nn.ModuleList([block(proj=Adapted())]))
    assert layer_of_modules(model) == {"blocks.0.proj": 0}


def test_a_list_whose_name_begins_like_the_layers_is_not_taken_for_them():
    model = block(h=nn.ModuleList([nn.Linear(1, 1)]), h2=nn.ModuleList([nn.Linear(1, 1), block(proj=Adapted())]))
    assert layer_of_modules(model) == {"h2.1.proj": 1}


def test_experts_inside_a_layer_belong_to_that_layer():
    experts = [block(experts=nn.ModuleList([Adapted(), Adapted()])) for _ in range(2)]
    assert layer_of_modules(block(layers=nn.ModuleList(experts))) == {
        "layers.0.experts.0": 0,
        "layers.0.experts.1": 0,
        "layers.1.experts.0": 1,
        "layers.1.experts.1": 1,
    }


def test_of_two_lists_with_lora_the_first_holds_the_layers():
    model = block(layers=nn.ModuleList([Adapted()]), heads=nn.ModuleList([Adapted(), Adapted()]))
    assert layer_of_modules(model) == {"layers.0": 0}


def test_a_model_that_is_itself_the_list_of_layers_is_read():
    assert layer_of_modules(nn.ModuleList([nn.Linear(1, 1), Adapted()])) == {"1": 1}
