"""defense/admission/checks.py: each refusal with its figures, and nothing refused that keeps to the round.

What attackers send is in `tests/unit/actors/test_admission.py`.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from defense.admission.checks import (
    OpenRound,
    Reason,
    Refusal,
    check_control_variate,
    check_count,
    check_finite,
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


def tensors(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.0, -2.0, 0.0, 0.5])} | changes


def test_a_refusal_is_one_short_printable_line():
    assert str(Refusal(Reason.WRONG_ROUND, "sent for round 1")) == "wrong_round: sent for round 1"
    shown = str(Refusal(Reason.MALFORMED, "\x1b[2J\nround 1: all is well\ud800" + "x" * 10**6))
    assert shown.startswith("malformed: ?[2J?round 1: all is well?xxx")
    assert len(shown) == len("malformed: ") + 300


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"client_id": "client-9"}, Reason.UNKNOWN_CLIENT, "'client-9' is not among the 2 clients of the round"),
        ({"round_index": 6}, Reason.WRONG_ROUND, "sent for round 6, round 7 is open"),
        ({"round_index": -7}, Reason.WRONG_ROUND, "sent for round -7, round 7 is open"),
        ({"base_version": 4}, Reason.WRONG_VERSION, "trained from adapter 4, the global adapter is 5"),
        ({"base_version": 6}, Reason.WRONG_VERSION, "trained from adapter 6, the global adapter is 5"),
    ],
)
def test_a_message_of_another_client_round_or_adapter_is_refused(changes, reason, detail):
    assert check_sender(Sent(**changes), ROUND) == Refusal(reason, detail)


def test_a_sampled_client_of_the_open_round_is_admitted_and_an_endless_name_is_cut_in_the_message():
    assert check_sender(Sent(), ROUND) is check_sender(Sent(client_id="client-2"), ROUND) is None
    assert len(check_sender(Sent(client_id="x" * 100_000), ROUND).detail) < 200


def test_a_round_allows_as_many_samples_as_its_steps_have():
    assert ROUND.max_samples == 48  # 3 steps of 16
    assert all(check_count("num_samples", value, 48) is None for value in (1, 2, 47, 48))
    for value in (0, -3, 49, math.nan):
        assert check_count("num_samples", value, 48) == Refusal(Reason.BAD_COUNT, f"num_samples={value} is outside 1 to 48")


@pytest.mark.parametrize(
    ("sent", "reason", "detail"),
    [
        ({"a": tensors()["a"], "c": tensors()["b"]}, Reason.WRONG_KEYS, "1 missing ['b'], 1 unexpected ['c']"),
        ({}, Reason.WRONG_KEYS, "2 missing ['a', 'b'], 0 unexpected []"),
        (tensors(b=torch.zeros(4).double()), Reason.WRONG_DTYPE, "b is torch.float64, expected torch.float32"),
        (tensors(a=torch.zeros(3, 2)), Reason.WRONG_SHAPE, "a is (3, 2), expected (2, 3)"),
    ],
)
def test_tensors_of_another_layout_are_refused(sent, reason, detail):
    assert check_tensors(sent, SHAPES) == Refusal(reason, detail)


def test_tensors_of_the_expected_layout_are_admitted_and_the_message_about_many_keys_stays_short():
    assert check_tensors(tensors(), SHAPES) is None
    detail = check_tensors({f"{i}" * 1000: torch.zeros(1) for i in range(10)}, SHAPES).detail
    assert detail.startswith("2 missing ['a', 'b'], 10 unexpected [")
    assert len(detail) <= 300


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_refused_by_name(value):
    sent = tensors()
    sent["b"][3] = value
    assert check_finite(sent) == Refusal(Reason.NOT_FINITE, "b holds NaN or infinity")
    assert check_finite(tensors(b=torch.zeros(0))) is None


def test_the_norm_is_taken_over_all_tensors_together_in_float64():
    # 2^2 + 3^2 + 6^2 = 49.
    assert delta_norm({"b": torch.tensor([[2.0], [3.0]]), "a": torch.tensor([6.0])}) == 7.0
    # 4096^2 = 2^24; in float32, 2^24 + 1 is 2^24 again, so the thousand ones would be lost one by one.
    assert delta_norm({"a": torch.tensor([4096.0]), "b": torch.ones(1000)}) == math.sqrt(16_777_216 + 1000)
    # 3e30 and 4e30 give 5e30; the squares, about 1e61, do not fit into float32 (largest 3.4e38).
    assert delta_norm({"a": torch.tensor([3e30, 4e30])}) == pytest.approx(5e30, rel=1e-6)


@pytest.mark.parametrize("norm", [math.nextafter(5.0, 6.0), math.nan, math.inf])
def test_a_norm_at_the_bound_is_admitted_and_one_above_or_no_number_is_refused(norm):
    assert check_norm(5.0, 5.0) is None
    assert check_norm(norm, 5.0).reason is Reason.NORM_EXCEEDED
    assert check_norm(5.0, 1.25).detail == "the delta's norm 5 is above the bound 1.25"


def test_one_value_that_moved_too_far_is_named_even_where_the_norm_is_small():
    delta = {"b": torch.zeros(9), "a": torch.tensor([0.0, -0.3])}
    assert check_values(delta, 0.25) == Refusal(Reason.NORM_EXCEEDED, "a value of a moved by 0.3, above the bound 0.25")
    assert check_values(delta, 0.31) is None
    assert check_values(delta, None) is None
    assert check_values({"a": torch.tensor([math.nan])}, 1.0).reason is Reason.NORM_EXCEEDED


# Bits


@pytest.mark.parametrize("last", [tensors(), {"b": tensors()["b"]}])
def test_a_last_step_that_is_the_update_in_all_that_it_carries_is_admitted(last):
    assert check_tie(tensors(), last) is None


def one_ulp(value: float) -> torch.Tensor:
    return tensors()["b"].index_fill(0, torch.tensor(3), float(np.nextafter(np.float32(0.5), np.float32(value))))


@pytest.mark.parametrize(
    ("last", "detail"),
    [
        ({}, "the last step delta carries no tensor"),
        (tensors(b=one_ulp(math.inf)), "b of the last step delta differs from the submitted update"),
        (tensors(b=one_ulp(-math.inf)), "b of the last step delta differs"),
        (tensors(b=torch.tensor([1.0, -2.0, -0.0, 0.5])), "b of the last step delta differs"),
        (tensors(b=torch.full((4,), math.nan)), "b of the last step delta differs"),
        (tensors(b=tensors()["b"].double()), "b of the last step delta differs"),
        (tensors(a=tensors()["a"].reshape(3, 2)), "a of the last step delta differs"),
        (tensors(c=torch.zeros(1)), "c of the last step delta differs"),
    ],
)
def test_a_last_step_that_is_not_the_update_to_the_bit_is_refused(last, detail):
    refusal = check_tie(tensors(), last)
    assert refusal.reason is Reason.UNTIED_EVIDENCE
    assert refusal.detail.startswith(detail)


def test_frozen_tensors_are_compared_to_the_bit():
    adapter = {"a": torch.tensor([0.0, 1.0]), "b": torch.ones(2)}
    assert check_frozen({"a": torch.tensor([0.0, 1.0]), "b": torch.zeros(2)}, adapter, {"a"}) is None
    for changed in ([0.0, 1.0000001], [-0.0, 1.0]):
        refusal = check_frozen({"a": torch.tensor(changed), "b": torch.ones(2)}, adapter, {"a"})
        assert refusal == Refusal(Reason.FROZEN_CHANGED, "a is frozen by aggregation.averaging=ffa and was changed")


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
        (tensors(a=torch.ones(2, 2)), SHAPES, 100.0, "wrong_shape: a is (2, 2), expected (2, 3)"),
        (tensors(b=torch.zeros(4).double()), SHAPES, 100.0, "wrong_dtype: b is torch.float64"),
        (tensors(b=torch.tensor([1.0, 2.0, 3.0, math.inf])), SHAPES, 100.0, "not_finite: b"),
        (tensors(a=torch.zeros(2, 3), b=torch.tensor([3.0, 4.0, 0, 0])), SHAPES, 4.99, "its norm 5 is above the bound 4.99"),
    ],
)
def test_a_control_variate_is_refused_with_what_is_wrong(control, shapes, max_norm, detail):
    refusal = check_control_variate(control, shapes, max_norm)
    assert refusal.reason is Reason.BAD_CONTROL_VARIATE
    assert detail in refusal.detail
