"""probe/features.py: which tensors a feature reads, and the unit vector it makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.features import FEATURES, tensor_names, unit_concatenation

LLAMA = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
GPT2 = "base_model.model.transformer.h.{}.{}.lora_{}.weight"


def layout(pattern: str, layers: list[int], modules: list[str]) -> dict[str, int]:
    return {pattern.format(layer, module, factor): layer for layer in layers for module in modules for factor in "AB"}


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
    vector = unit_concatenation({"b": torch.tensor([[3.0]]), "a": torch.tensor([[0.0, 4.0]])})
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.array([0.0, 0.8, 0.6], dtype=np.float32))


def test_a_matrix_is_flattened_row_by_row_whatever_its_memory_layout():
    # Rows (1, 5), (1, 3): squares 1 + 25 + 1 + 9 = 36, norm 6.
    rows = torch.tensor([[1.0, 5.0], [1.0, 3.0]])
    expected = np.array([1 / 6, 5 / 6, 1 / 6, 3 / 6], dtype=np.float32)
    transposed_in_memory = torch.tensor([[1.0, 1.0], [5.0, 3.0]]).T
    assert not transposed_in_memory.is_contiguous()
    for matrix in (rows, transposed_in_memory):
        np.testing.assert_array_equal(unit_concatenation({"m": matrix}), expected)


def test_a_zero_delta_stays_zero():
    vector = unit_concatenation({"a": torch.zeros(2, 3), "b": torch.zeros(1)})
    np.testing.assert_array_equal(vector, np.zeros(7, dtype=np.float32))


def test_a_norm_below_the_smallest_is_not_divided_out():
    # 5e-13 is below 1e-12 and divides by 1; 2e-12 is above it and becomes 1.
    np.testing.assert_array_equal(unit_concatenation({"a": torch.tensor([5e-13])}), np.array([5e-13], dtype=np.float32))
    np.testing.assert_array_equal(unit_concatenation({"a": torch.tensor([-2e-12])}), np.array([-1.0], dtype=np.float32))


def test_values_whose_squares_overflow_float32_still_give_a_unit_vector():
    # 3e30 and 4e30: the squares, about 1e61, do not fit into float32 (largest 3.4e38).
    vector = unit_concatenation({"a": torch.tensor([3e30, 4e30])})
    np.testing.assert_allclose(vector, [0.6, 0.8], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3), min_size=1, max_size=12).filter(any),
    st.integers(-20, 20),
)
def test_the_vector_does_not_depend_on_the_scale_of_the_delta(values, exponent):
    # A power of two changes no mantissa, so the vectors are equal to the bit; its length is 1 in float32 accuracy.
    delta = {"a": torch.tensor(values, dtype=torch.float32)}
    vector = unit_concatenation(delta)
    np.testing.assert_array_equal(unit_concatenation({"a": delta["a"] * 2.0**exponent}), vector)
    np.testing.assert_array_equal(unit_concatenation({"a": -delta["a"]}), -vector)
    assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)


def test_the_papers_feature_extracts_the_unit_concatenation():
    # Norm of (6, 8) is 10.
    delta = {LLAMA.format(0, "v_proj", "B"): torch.tensor([[8.0]]), LLAMA.format(0, "q_proj", "B"): torch.tensor([[6.0]])}
    np.testing.assert_array_equal(FEATURES["first_layer_b"].extract(delta), np.array([0.6, 0.8], dtype=np.float32))
