"""probe/features.py: which tensors a feature reads, and the unit vector it makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.features import Block, block_sizes, extract, feature_blocks, tensor_names

LLAMA = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
GPT2 = "base_model.model.transformer.h.{}.{}.lora_{}.weight"


def layout(pattern: str, layers: list[int], modules: list[str]) -> dict[str, int]:
    return {pattern.format(layer, module, factor): layer for layer in layers for module in modules for factor in "AB"}


def unit(delta: dict[str, torch.Tensor]) -> np.ndarray:
    """All tensors as one block."""
    return extract([Block("all", tuple(sorted(delta)))], delta)


def test_first_layer_b_reads_only_the_b_of_layer_0_in_sorted_order():
    layers = layout(LLAMA, [2, 0, 1], ["v_proj", "k_proj", "q_proj"])
    assert tensor_names("first_layer_b", layers) == (
        "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
        "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
    )


def test_first_layer_b_knows_gpt2_names():
    layers = layout(GPT2, [0, 1], ["mlp.c_proj", "attn.c_attn"])
    assert tensor_names("first_layer_b", layers) == (
        "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight",
        "base_model.model.transformer.h.0.mlp.c_proj.lora_B.weight",
    )


def test_first_layer_is_the_lowest_number_not_the_first_name():
    # As text "10" comes before "9".
    assert tensor_names("first_layer_b", layout(GPT2, [10, 9], ["attn.c_attn"])) == (
        "base_model.model.transformer.h.9.attn.c_attn.lora_B.weight",
    )


def test_first_layer_is_the_first_one_that_has_a_lora():
    assert tensor_names("first_layer_b", layout(LLAMA, [1, 2], ["q_proj"])) == (
        "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight",
    )


def test_unknown_feature_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown probe feature 'all_layers_c'; known: \[.*'first_layer_b'.*\]"):
        tensor_names("all_layers_c", layout(LLAMA, [0], ["q_proj"]))


@pytest.mark.parametrize("layers", [{}, {LLAMA.format(0, "q_proj", "A"): 0}])
def test_an_adapter_without_a_tensor_for_the_feature_is_an_error(layers):
    with pytest.raises(ValueError, match="first_layer_b finds no LoRA tensor"):
        tensor_names("first_layer_b", layers)


def test_concatenation_follows_sorted_names_and_has_unit_norm():
    # Sorted: a = (0, 4), b = (3). Norm 5, so (0, 0.8, 0.6).
    vector = unit({"b": torch.tensor([[3.0]]), "a": torch.tensor([[0.0, 4.0]])})
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.array([0.0, 0.8, 0.6], dtype=np.float32))


def test_a_matrix_is_flattened_row_by_row_whatever_its_memory_layout():
    # Rows (1, 5), (1, 3): squares 1 + 25 + 1 + 9 = 36, norm 6.
    rows = torch.tensor([[1.0, 5.0], [1.0, 3.0]])
    expected = np.array([1 / 6, 5 / 6, 1 / 6, 3 / 6], dtype=np.float32)
    transposed_in_memory = torch.tensor([[1.0, 1.0], [5.0, 3.0]]).T
    assert not transposed_in_memory.is_contiguous()
    for matrix in (rows, transposed_in_memory):
        np.testing.assert_array_equal(unit({"m": matrix}), expected)


def test_a_zero_delta_stays_zero():
    vector = unit({"a": torch.zeros(2, 3), "b": torch.zeros(1)})
    np.testing.assert_array_equal(vector, np.zeros(7, dtype=np.float32))


def test_a_norm_below_the_smallest_is_not_divided_out():
    # 5e-13 is below 1e-12 and divides by 1; 2e-12 is above it and becomes 1.
    np.testing.assert_array_equal(unit({"a": torch.tensor([5e-13])}), np.array([5e-13], dtype=np.float32))
    np.testing.assert_array_equal(unit({"a": torch.tensor([-2e-12])}), np.array([-1.0], dtype=np.float32))


def test_values_whose_squares_overflow_float32_still_give_a_unit_vector():
    # 3e30 and 4e30: the squares, about 1e61, do not fit into float32 (largest 3.4e38).
    vector = unit({"a": torch.tensor([3e30, 4e30])})
    np.testing.assert_allclose(vector, [0.6, 0.8], rtol=1e-6)


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


def test_module_cosines_reads_the_same_blocks_as_all_layers():
    layers = layout(LLAMA, [0, 1], ["q_proj"])
    assert feature_blocks("module_cosines", layers) == feature_blocks("all_layers", layers)


def test_the_other_features_read_every_tensor_inside_the_layers():
    layers = layout(LLAMA, [0, 1], ["q_proj", "v_proj"])
    for feature in ("all_layers", "per_layer", "module_cosines"):
        assert tensor_names(feature, layers) == tuple(sorted(layers))


def test_sizes_are_numbers_of_values():
    # 3 x 2 and 1 x 2 in one block, 4 x 1 in the other.
    blocks = (Block("x", ("a", "b")), Block("y", ("c",)))
    assert block_sizes(blocks, {"a": (3, 2), "b": (1, 2), "c": (4, 1)}) == (8, 4)
