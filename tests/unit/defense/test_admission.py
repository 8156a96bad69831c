"""defense/admission.py: each refusal with its figures, and nothing refused that keeps to the round."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defense.admission import (
    OpenRound,
    Reason,
    Refusal,
    check_control_variate,
    check_count,
    check_frozen,
    check_norm,
    check_sender,
    check_tensors,
    check_tie,
    check_values,
    delta_norm,
)


@dataclass(frozen=True)
class Sent:
    client_id: str = "client-1"
    round_index: int = 7
    base_version: int = 5
    num_samples: int = 16


ROUND = OpenRound(
    round_index=7, base_version=5, client_ids=frozenset({"client-1", "client-2"}), num_steps=3, batch_size=16, max_norm=2.0
)
SHAPES = {"a": (2, 3), "b": (4,)}


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, -2.0, 0.0, 0.5])}


# Sender


def test_a_sampled_client_of_the_open_round_is_admitted():
    assert check_sender(Sent(), ROUND) is None
    assert check_sender(Sent(client_id="client-2"), ROUND) is None


def test_a_client_that_was_not_sampled_is_refused():
    refusal = check_sender(Sent(client_id="client-9"), ROUND)
    assert refusal.reason is Reason.UNKNOWN_CLIENT
    assert refusal.detail == "'client-9' is not among the 2 clients of the round"


def test_an_endless_client_name_is_cut_in_the_message():
    refusal = check_sender(Sent(client_id="x" * 100_000), ROUND)
    assert refusal.reason is Reason.UNKNOWN_CLIENT
    assert len(refusal.detail) < 200


@pytest.mark.parametrize("sent_for", [6, 8, -7])
def test_a_message_for_another_round_is_refused(sent_for):
    refusal = check_sender(Sent(round_index=sent_for), ROUND)
    assert refusal.reason is Reason.WRONG_ROUND
    assert refusal.detail == f"sent for round {sent_for}, round 7 is open"


@pytest.mark.parametrize("version", [4, 6])
def test_training_from_another_adapter_is_refused(version):
    refusal = check_sender(Sent(base_version=version), ROUND)
    assert refusal.reason is Reason.WRONG_VERSION
    assert refusal.detail == f"trained from adapter {version}, the global adapter is 5"


def test_a_refusal_reads_as_reason_and_figures():
    assert (
        str(Refusal(Reason.WRONG_ROUND, "sent for round 1, round 7 is open")) == "wrong_round: sent for round 1, round 7 is open"
    )


# Counts


def test_a_round_allows_as_many_samples_as_its_steps_have():
    # 3 steps of 16.
    assert ROUND.max_samples == 48


@pytest.mark.parametrize("value", [1, 2, 47, 48])
def test_a_count_from_1_to_the_most_is_admitted(value):
    assert check_count("num_samples", value, ROUND.max_samples) is None


@pytest.mark.parametrize(("value", "shown"), [(0, "0"), (-3, "-3"), (49, "49"), (math.nan, "nan")])
def test_a_count_outside_is_refused_with_its_name_and_bounds(value, shown):
    refusal = check_count("num_samples", value, ROUND.max_samples)
    assert refusal.reason is Reason.BAD_COUNT
    assert refusal.detail == f"num_samples={shown} is outside 1 to 48"


# Tensors


def test_tensors_of_the_expected_layout_are_admitted():
    assert check_tensors(tensors(), SHAPES) is None


def test_missing_and_unexpected_keys_are_counted_and_named():
    sent = tensors()
    sent["c"] = sent.pop("b")
    refusal = check_tensors(sent, SHAPES)
    assert refusal.reason is Reason.WRONG_KEYS
    assert refusal.detail == "1 missing ['b'], 1 unexpected ['c']"


def test_the_message_about_many_keys_stays_short():
    refusal = check_tensors({f"{i}" * 1000: torch.zeros(1) for i in range(10)}, SHAPES)
    assert refusal.reason is Reason.WRONG_KEYS
    assert refusal.detail.startswith("2 missing ['a', 'b'], 10 unexpected [")
    assert len(refusal.detail) <= 300


def test_no_tensors_at_all_are_refused():
    assert check_tensors({}, SHAPES).reason is Reason.WRONG_KEYS


def test_another_dtype_is_refused_with_both_names():
    refusal = check_tensors({**tensors(), "b": tensors()["b"].double()}, SHAPES)
    assert refusal.reason is Reason.WRONG_DTYPE
    assert refusal.detail == "b is torch.float64, expected torch.float32"


def test_another_shape_of_as_many_values_is_refused_with_both_shapes():
    refusal = check_tensors({**tensors(), "a": tensors()["a"].reshape(3, 2)}, SHAPES)
    assert refusal.reason is Reason.WRONG_SHAPE
    assert refusal.detail == "a is (3, 2), expected (2, 3)"


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_refused(poison):
    sent = tensors()
    sent["b"][3] = poison
    refusal = check_tensors(sent, SHAPES)
    assert refusal.reason is Reason.NOT_FINITE
    assert refusal.detail == "b holds NaN or infinity"


MUTATIONS = {
    "drop a key": Reason.WRONG_KEYS,
    "add a key": Reason.WRONG_KEYS,
    "rename a key": Reason.WRONG_KEYS,
    "float64": Reason.WRONG_DTYPE,
    "float16": Reason.WRONG_DTYPE,
    "bfloat16": Reason.WRONG_DTYPE,
    "int32": Reason.WRONG_DTYPE,
    "one row more": Reason.WRONG_SHAPE,
    "one dimension more": Reason.WRONG_SHAPE,
    "flattened": Reason.WRONG_SHAPE,
    "nan": Reason.NOT_FINITE,
    "inf": Reason.NOT_FINITE,
    "-inf": Reason.NOT_FINITE,
}


def mutate(sent: dict[str, torch.Tensor], name: str, mutation: str, position: int) -> None:
    """Spoil one tensor in the way that `mutation` says."""
    tensor = sent.pop(name)
    if mutation == "add a key":
        sent.update({name: tensor, f"{name}.extra": tensor})
    elif mutation == "rename a key":
        sent[f"{name}.renamed"] = tensor
    elif hasattr(torch, mutation) and isinstance(getattr(torch, mutation), torch.dtype):
        sent[name] = tensor.to(getattr(torch, mutation))
    elif mutation == "one row more":
        sent[name] = torch.cat([tensor, tensor[:1]])
    elif mutation == "one dimension more":
        sent[name] = tensor[None]
    elif mutation == "flattened":
        sent[name] = tensor.reshape(-1)
    elif mutation in ("nan", "inf", "-inf"):
        tensor.view(-1)[position % tensor.numel()] = float(mutation)
        sent[name] = tensor


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=4), st.lists(st.integers(1, 4), min_size=2, max_size=3), min_size=1, max_size=4
    ),
    st.sampled_from(sorted(MUTATIONS)),
    st.data(),
)
def test_any_layout_is_admitted_untouched_and_refused_after_any_one_mutation(layout, mutation, data):
    shapes = {name: tuple(shape) for name, shape in layout.items()}
    generator = torch.Generator().manual_seed(0)
    sent = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    assert check_tensors(sent, shapes) is None
    name = data.draw(st.sampled_from(sorted(shapes)))
    mutate(sent, name, mutation, data.draw(st.integers(0, 63)))
    refusal = check_tensors(sent, shapes)
    assert refusal is not None
    assert refusal.reason is MUTATIONS[mutation]
    assert name in refusal.detail


# Norm


def test_the_norm_is_taken_over_all_tensors_together():
    # 2^2 + 3^2 + 6^2 = 4 + 9 + 36 = 49.
    assert delta_norm({"b": torch.tensor([[2.0], [3.0]]), "a": torch.tensor([6.0])}) == 7.0


def test_the_norm_is_accumulated_in_float64():
    # 4096^2 = 2^24; in float32, 2^24 + 1 is 2^24 again, so the thousand ones would be lost one by one.
    delta = {"a": torch.tensor([4096.0]), "b": torch.ones(1000)}
    assert delta_norm(delta) == math.sqrt(16_777_216 + 1000)


def test_squares_that_overflow_float32_do_not_make_the_norm_infinite():
    # 3e30 and 4e30 give 5e30; the squares, about 1e61, do not fit into float32 (largest 3.4e38).
    assert delta_norm({"a": torch.tensor([3e30, 4e30])}) == pytest.approx(5e30, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30), min_size=1, max_size=4))
def test_the_norm_agrees_with_numpys_in_float64(parts):
    delta = {str(i): torch.tensor(part, dtype=torch.float32) for i, part in enumerate(parts)}
    expected = np.linalg.norm(np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]))
    assert delta_norm(delta) == pytest.approx(expected, rel=1e-12)


def test_a_norm_at_the_bound_is_admitted_and_one_above_is_refused():
    delta = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}  # norm 5
    assert check_norm(delta, 5.0) is None
    assert check_norm(delta, math.nextafter(5.0, 0.0)).reason is Reason.NORM_EXCEEDED


def test_the_refusal_of_a_norm_names_both_figures():
    refusal = check_norm({"a": torch.tensor([3.0, 4.0])}, 1.25)
    assert refusal.detail == "the delta's norm 5 is above the bound 1.25"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_refused(value):
    assert check_norm({"a": torch.tensor([value])}, 1e9).reason is Reason.NORM_EXCEEDED


def test_one_value_that_moved_too_far_is_named_even_where_the_norm_is_small():
    delta = {"b": torch.zeros(9), "a": torch.tensor([0.0, -0.3])}
    refusal = check_values(delta, 0.25)
    assert (refusal.reason, refusal.detail) == (Reason.NORM_EXCEEDED, "a value of a moved by 0.3, above the bound 0.25")
    assert check_values(delta, 0.31) is None
    assert check_values(delta, None) is None
    assert check_values({"a": torch.tensor([math.nan])}, 1.0).reason is Reason.NORM_EXCEEDED


# Tie


def test_a_last_step_that_is_the_update_is_admitted():
    assert check_tie(tensors(), tensors()) is None


def test_a_last_step_may_carry_only_the_tensors_that_the_feature_reads():
    assert check_tie(tensors(), {"b": tensors()["b"]}) is None


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("towards", [math.inf, -math.inf])
def test_a_difference_of_one_ulp_in_one_value_is_refused(name, towards):
    last = tensors()
    flat = last[name].view(-1)
    flat[-1] = torch.nextafter(flat[-1], torch.tensor(towards))
    refusal = check_tie(tensors(), last)
    assert refusal.reason is Reason.UNTIED_EVIDENCE
    assert refusal.detail == f"{name} of the last step delta differs from the submitted update"


def test_a_tensor_that_the_update_lacks_is_refused():
    refusal = check_tie(tensors(), {**tensors(), "c": torch.zeros(1)})
    assert refusal.reason is Reason.UNTIED_EVIDENCE
    assert refusal.detail.startswith("c of the last step")


def test_the_same_values_in_another_shape_are_refused():
    assert check_tie(tensors(), {"a": tensors()["a"].reshape(3, 2)}).reason is Reason.UNTIED_EVIDENCE


def test_nan_ties_to_no_admitted_delta():
    spoiled = {**tensors(), "b": torch.full((4,), math.nan)}
    assert check_tie(tensors(), spoiled).reason is Reason.UNTIED_EVIDENCE


def test_zero_and_minus_zero_are_different_bits():
    plus, minus = torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])
    assert check_tie({"a": plus}, {"a": minus}).reason is Reason.UNTIED_EVIDENCE
    assert check_tie({"a": minus}, {"a": minus.clone()}) is None


def test_the_same_values_in_another_type_are_refused():
    assert check_tie({"a": torch.ones(2)}, {"a": torch.ones(2).double()}).reason is Reason.UNTIED_EVIDENCE


def test_a_last_step_without_tensors_ties_to_nothing():
    assert check_tie(tensors(), {}).reason is Reason.UNTIED_EVIDENCE


def test_frozen_tensors_are_compared_to_the_bit():
    adapter = {"a": torch.tensor([0.0, 1.0]), "b": torch.ones(2)}
    assert check_frozen({"a": torch.tensor([0.0, 1.0]), "b": torch.zeros(2)}, adapter, {"a"}) is None
    for changed in ([0.0, 1.0000001], [-0.0, 1.0]):
        refusal = check_frozen({"a": torch.tensor(changed), "b": torch.ones(2)}, adapter, {"a"})
        assert refusal.reason is Reason.FROZEN_CHANGED
        assert refusal.detail.startswith("a is frozen by aggregation.averaging=ffa")


# Control variate


def test_a_control_variate_that_was_asked_for_and_none_that_was_not_are_admitted():
    assert check_control_variate(tensors(), SHAPES, delta_norm(tensors())) is None
    assert check_control_variate(None, None, 1.0) is None


@pytest.mark.parametrize(
    ("control", "shapes", "max_norm", "detail"),
    [
        (None, SHAPES, 100.0, "it is missing"),
        (tensors(), None, 100.0, "none was asked for"),
        ({}, SHAPES, 100.0, "wrong_keys: 2 missing"),
        (tensors() | {"a": torch.ones(2, 2)}, SHAPES, 100.0, "wrong_shape: a is (2, 2), expected (2, 3)"),
        (tensors() | {"b": torch.tensor([1.0, 2.0, 3.0, math.inf])}, SHAPES, 100.0, "not_finite: b"),
        ({"a": torch.zeros(2, 3), "b": torch.tensor([3.0, 4.0, 0.0, 0.0])}, SHAPES, 4.99, "its norm 5 is above the bound 4.99"),
    ],
)
def test_a_control_variate_is_refused_with_what_is_wrong(control, shapes, max_norm, detail):
    refusal = check_control_variate(control, shapes, max_norm)
    assert refusal.reason is Reason.BAD_CONTROL_VARIATE
    assert detail in refusal.detail
