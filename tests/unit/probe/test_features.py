"""probe/features.py: which tensors a feature reads, the unit vector it makes of them, and the layers of LoRA modules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from probe.features import Block, block_sizes, extract, feature_blocks, layer_of_modules, tensor_names

LLAMA = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
GPT2 = "base_model.model.transformer.h.{}.{}.lora_{}.weight"


def layout(pattern: str, layers: list[int], modules: list[str]) -> dict[str, int]:
    return {pattern.format(layer, module, factor): layer for layer in layers for module in modules for factor in "AB"}


def unit(delta: dict[str, torch.Tensor]) -> np.ndarray:
    """All tensors as one block."""
    return extract([Block("all", tuple(sorted(delta)))], delta)


@pytest.mark.parametrize(
    ("layers", "read"),
    [
        # Only the B of layer 0, sorted.
        (
            layout(LLAMA, [2, 0, 1], ["v_proj", "k_proj", "q_proj"]),
            [LLAMA.format(0, module, "B") for module in ("k_proj", "q_proj", "v_proj")],
        ),
        # The lowest number and not the first name: as text "10" comes before "9".
        (layout(GPT2, [10, 9], ["mlp.c_proj", "attn.c_attn"]), [GPT2.format(9, m, "B") for m in ("attn.c_attn", "mlp.c_proj")]),
        # The first layer that has a LoRA.
        (layout(LLAMA, [1, 2], ["q_proj"]), [LLAMA.format(1, "q_proj", "B")]),
    ],
)
def test_first_layer_b_reads_the_b_of_the_first_layer_with_a_lora_in_sorted_order(layers, read):
    assert tensor_names("first_layer_b", layers) == tuple(read)


def test_unknown_feature_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown probe feature 'all_layers_c'; known: \[.*'first_layer_b'.*\]"):
        tensor_names("all_layers_c", layout(LLAMA, [0], ["q_proj"]))


@pytest.mark.parametrize("layers", [{}, {LLAMA.format(0, "q_proj", "A"): 0}])
def test_an_adapter_without_a_tensor_for_the_feature_is_an_error(layers):
    with pytest.raises(ValueError, match="first_layer_b finds no LoRA tensor"):
        tensor_names("first_layer_b", layers)


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        # Sorted: a = (0, 4), b = (3). Norm 5, so (0, 0.8, 0.6).
        ({"b": [[3.0]], "a": [[0.0, 4.0]]}, [0.0, 0.8, 0.6]),
        ({"a": [[0.0] * 3] * 2, "b": [0.0]}, [0.0] * 7),
        # A norm below the smallest is not divided out: 5e-13 is below 1e-12, 2e-12 is above it.
        ({"a": [5e-13]}, [5e-13]),
        ({"a": [-2e-12]}, [-1.0]),
        # The squares, about 1e61, do not fit into float32 (largest 3.4e38).
        ({"a": [3e30, 4e30]}, [0.6, 0.8]),
    ],
)
def test_tensors_are_concatenated_in_order_of_names_and_divided_by_their_norm(delta, expected):
    vector = unit({name: torch.tensor(values) for name, values in delta.items()})
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, np.array(expected, dtype=np.float32), rtol=1e-6, atol=0)


def test_a_matrix_is_flattened_row_by_row_whatever_its_memory_layout():
    # Rows (1, 5), (1, 3): squares 1 + 25 + 1 + 9 = 36, norm 6.
    rows = torch.tensor([[1.0, 5.0], [1.0, 3.0]])
    expected = np.array([1 / 6, 5 / 6, 1 / 6, 3 / 6], dtype=np.float32)
    transposed_in_memory = torch.tensor([[1.0, 1.0], [5.0, 3.0]]).T
    assert not transposed_in_memory.is_contiguous()
    for matrix in (rows, transposed_in_memory):
        np.testing.assert_array_equal(unit({"m": matrix}), expected)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=1, max_size=12).filter(any),
    st.integers(-20, 20),
)
def test_the_vector_does_not_depend_on_the_scale_of_the_delta(values, exponent):
    # A power of two changes no mantissa, so the vectors are equal to the bit; its length is 1 in float32 accuracy.
    delta = {"a": torch.tensor(values, dtype=torch.float32)}
    vector = unit(delta)
    np.testing.assert_array_equal(unit({"a": delta["a"] * 2.0**exponent}), vector)
    np.testing.assert_array_equal(unit({"a": -delta["a"]}), -vector)
    assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)


def test_the_papers_feature_extracts_the_unit():
    # Norm of (6, 8) is 10.
    delta = {LLAMA.format(0, "v_proj", "B"): torch.tensor([[8.0]]), LLAMA.format(0, "q_proj", "B"): torch.tensor([[6.0]])}
    blocks = feature_blocks("first_layer_b", dict.fromkeys(delta, 0))
    np.testing.assert_array_equal(extract(blocks, delta), np.array([0.6, 0.8], dtype=np.float32))


def test_all_layers_has_a_unit_block_per_module_in_order_of_layers():
    # As text layer 10 comes before layer 9. Each module's A and B are normalised together: (3, 4) -> (0.6, 0.8).
    layers = layout(GPT2, [10, 9], ["mlp.c_proj", "attn.c_attn"])
    blocks = feature_blocks("all_layers", layers)
    assert [block.name.removeprefix("base_model.model.transformer.") for block in blocks] == [
        "h.9.attn.c_attn",
        "h.9.mlp.c_proj",
        "h.10.attn.c_attn",
        "h.10.mlp.c_proj",
    ]
    assert all(len(block.tensors) == 2 for block in blocks)
    scale = {name: 10.0**layer for name, layer in layers.items()}
    delta = {name: torch.tensor([[3.0 if ".lora_A." in name else 4.0]]) * scale[name] for name in layers}
    np.testing.assert_allclose(extract(blocks, delta), [0.6, 0.8] * 4, rtol=1e-6)


def test_per_layer_has_a_unit_block_per_layer():
    layers = layout(LLAMA, [0, 1], ["q_proj", "v_proj"])
    blocks = feature_blocks("per_layer", layers)
    assert [block.name for block in blocks] == ["layer 0", "layer 1"]
    delta = {name: torch.tensor([[1.0 + 7 * layer]]) for name, layer in layers.items()}
    np.testing.assert_allclose(extract(blocks, delta), [0.5] * 8, rtol=1e-6)
    assert block_sizes(blocks, dict.fromkeys(layers, (1, 1))) == (4, 4)


def test_the_other_features_read_every_tensor_inside_the_layers():
    layers = layout(LLAMA, [0, 1], ["q_proj", "v_proj"])
    for feature in ("all_layers", "per_layer", "module_cosines"):
        assert tensor_names(feature, layers) == tuple(sorted(layers))
    assert feature_blocks("module_cosines", layers) == feature_blocks("all_layers", layers)


def test_sizes_are_numbers_of_values():
    # 3 x 2 and 1 x 2 in one block, 4 x 1 in the other.
    blocks = (Block("x", ("a", "b")), Block("y", ("c",)))
    assert block_sizes(blocks, {"a": (3, 2), "b": (1, 2), "c": (4, 1)}) == (8, 4)


# Layers of LoRA modules


def llama(**lora) -> nn.Module:
    """Three layers."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 32}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))
        return get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **lora))


def gpt2(**lora) -> nn.Module:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=32, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        return get_peft_model(GPT2LMHeadModel(config), LoraConfig(r=2, task_type="CAUSAL_LM", fan_in_fan_out=True, **lora))


PREFIX = "base_model.model.model.layers"


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (
            lambda: llama(target_modules=["q_proj", "down_proj"]),
            {f"{PREFIX}.{i}.{module}": i for i in range(3) for module in ("self_attn.q_proj", "mlp.down_proj")},
        ),
        (lambda: gpt2(target_modules=["c_attn"]), {f"base_model.model.transformer.h.{i}.attn.c_attn": i for i in range(2)}),
        # Modules outside the layers have none.
        (
            lambda: llama(target_modules=["v_proj", "lm_head", "embed_tokens"]),
            {f"{PREFIX}.{i}.self_attn.v_proj": i for i in range(3)},
        ),
        (lambda: llama(target_modules=["lm_head"]), {}),
        # Layers keep their number when only some have a LoRA.
        (
            lambda: llama(target_modules=["q_proj"], layers_to_transform=[1, 2]),
            {f"{PREFIX}.{i}.self_attn.q_proj": i for i in (1, 2)},
        ),
    ],
)
def test_layers_of_real_models(model, layers):
    assert layer_of_modules(model()) == layers


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


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (nn.ModuleList([nn.Linear(1, 1)]), {}),
        # A number of two digits is read whole.
        (block(h=nn.ModuleList(block(proj=Adapted()) for _ in range(12))), {f"h.{i}.proj": i for i in range(12)}),
        # A list without a LoRA is passed over.
        (block(pieces=nn.ModuleList([nn.Linear(1, 1)]), blocks=nn.ModuleList([Adapted()])), {"blocks.0": 0}),
        # A list whose name begins like that of the layers is not taken for them.
        (block(h=nn.ModuleList([nn.Linear(1, 1)]), h2=nn.ModuleList([nn.Linear(1, 1), Adapted()])), {"h2.1": 1}),
        # Experts inside a layer belong to that layer.
        (
            block(layers=nn.ModuleList(block(experts=nn.ModuleList([Adapted(), Adapted()])) for _ in range(2))),
            {"layers.0.experts.0": 0, "layers.0.experts.1": 0, "layers.1.experts.0": 1, "layers.1.experts.1": 1},
        ),
        # Of two lists with a LoRA the first holds the layers.
        (block(layers=nn.ModuleList([Adapted()]), heads=nn.ModuleList([Adapted(), Adapted()])), {"layers.0": 0}),
        # The model itself may be the list of layers.
        (nn.ModuleList([nn.Linear(1, 1), Adapted()]), {"1": 1}),
    ],
)
def test_layers_of_hand_made_module_trees(model, layers):
    assert layer_of_modules(model) == layers
