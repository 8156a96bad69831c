"""Client messages as bytes: messages arrive as sent, and all other bytes are refused with WireError."""

import dataclasses
import json
import struct
from random import Random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark, raises

from actors.errors import WireError
from actors.messages import LoRAUpdate, StepDelta
from actors.wire import decode_message, decode_tensors, encode_message, encode_tensors
from defense.admission.checks import OpenRound, Reason
from tests.malformed import DELTAS, UPDATES, Valid, pack
from tests.unit.actors.builders import A0, B0

TENSORS = {B0: torch.tensor([[1.5, -2.0], [0.25, 3.0]]), A0: torch.tensor([[0.5, -0.5, 4.0]])}
FIELDS = {"client_id": "client-3", "round_index": 4, "base_version": 2, "num_samples": 8}
DELTA = StepDelta(**FIELDS, branch="real", step=2, tensors=TENSORS)
UPDATE = LoRAUpdate(**FIELDS, loss=1.25, train_s=0.5, tensors=TENSORS)
ROUND = OpenRound(
    round_index=4, base_version=2, client_ids=frozenset(["client-3", "client-4"]), num_steps=2, batch_size=8, max_norm=10.0
)
MALFORMED = [(m, name, kinds[name]) for m, kinds in ((DELTA, DELTAS), (UPDATE, UPDATES)) for name in kinds]
EACH = mark.parametrize("message", [DELTA, UPDATE], ids=["delta", "update"])


def assert_same_tensors(got: dict[str, torch.Tensor], sent: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(sent)
    for name, tensor in sent.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        assert got[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_tensors_arrive_to_the_bit_and_equal_states_give_equal_bytes_in_any_order():
    tensors = {
        "special": torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45]),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    assert_same_tensors(decode_tensors(encode_tensors(tensors)), tensors)
    assert encode_tensors({name: tensors[name].clone() for name in reversed(list(tensors))}) == encode_tensors(tensors)


@mark.parametrize(
    "message",
    [
        DELTA,
        UPDATE,
        dataclasses.replace(UPDATE, client_id='Klinik "Süd" \n 東\x00', tensors={}),
        dataclasses.replace(UPDATE, control_variate={name: -2 * tensor for name, tensor in TENSORS.items()}),
        dataclasses.replace(DELTA, tensors={f"control/{B0}": torch.ones(2)}),  # a step delta has no control variate
    ],
)
def test_a_message_arrives_as_it_was_sent_and_equal_ones_give_equal_bytes(message):
    got = decode_message(encode_message(message), type(message))
    assert type(got) is type(message)
    for field in dataclasses.fields(message):
        sent, arrived = getattr(message, field.name), getattr(got, field.name)
        if isinstance(sent, dict):
            assert_same_tensors(arrived, sent)
        else:
            assert (arrived, type(arrived)) == (sent, type(sent))
    assert len({encode_message(message) for _ in range(20)}) == 1


def test_a_hand_made_message_is_understood():
    header = {"b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    fields = {**FIELDS, "branch": "shadow", "step": 5}
    message = decode_message(
        pack({"__metadata__": {"StepDelta": json.dumps(fields)}, **header}, struct.pack("<2f", 1.5, -2.0)), StepDelta
    )
    assert (message.client_id, message.branch, message.step) == ("client-3", "shadow", 5)
    assert message.tensors["b"].tolist() == [1.5, -2.0]


def test_a_whole_number_arrives_as_a_float_that_a_table_takes():
    # pyarrow writes no integer above 2^53 into a column of floats: such a loss ended the run of all clients.
    message = decode_message(Valid(UPDATE, ROUND).with_fields(loss=2**53 + 1, train_s=2**63 - 1), LoRAUpdate)
    assert (type(message.loss), message.loss) == (float, 2.0**53)
    assert (type(message.train_s), message.train_s) == (float, 2.0**63)


COMPLAINTS = {
    "not bytes": "expected bytes, got ",
    "a bytearray": "expected bytes, got bytearray",
    "a length too short": "the header is not JSON",
    "a length beyond the end": r"header claims \d+ bytes",
    "a header above the limit": r"header claims \d+ bytes",
    "a deep header": "the header is not JSON",
    "endless digits in the header": "the header is not JSON|not a safetensors message",
    "a tensor twice": "the header is not JSON: a key stands in it twice",
    "the fields twice": "the header is not JSON: a key stands in it twice",
    "the metadata twice": "the header is not JSON: a key stands in it twice",
    "metadata that is no object": r"the header has no fields|expected a \w+, got \[\]",
    "another kind": r"expected a (StepDelta, got \['LoRAUpdate'\]|LoRAUpdate, got \['StepDelta'\])",
    "an unheard-of kind": r"expected a \w+, got",
    "two kinds": r"expected a \w+, got",
    "deep fields": "fields are not JSON",
    "a field twice": "fields are not JSON: a key stands in it twice",
    "fields that are no JSON": "fields are not JSON|expected the fields",
    "fields that are no object": "expected the fields",
    "a missing field": r"expected the fields \['base_version', ",
    "an extra field": "expected the fields",
    "a number of another type": r"field \w+ should be (int|float), got",
    "an integer as a float": r"field \w+ should be int, got",
    "a text of another type": r"field \w+ should be (str|Branch), got",
    "beyond 64 bits": r"field \w+ does not fit 64 bits",
    "an infinite figure": r"field (loss|train_s) is not finite",
    "a figure too large": r"field (loss|train_s) is not finite",
    "another branch": r"field branch should be one of \('real', 'shadow'\), got",
    "a shape without strides": "not a safetensors message",
    "overlapping tensors": "not a safetensors message",
}


@mark.parametrize(("message", "name", "kind"), MALFORMED, ids=[f"{type(m).__name__}-{name}" for m, name, _ in MALFORMED])
def test_a_malformed_message_is_refused_with_its_complaint_and_another_still_has_its_types(message, name, kind):
    for seed in range(6):
        payload = kind.make(Valid(message, ROUND), Random(seed))
        if kind.reason is Reason.MALFORMED:
            with raises(WireError, match=COMPLAINTS.get(name)):
                decode_message(payload, type(message))
        else:
            decode_or_refuse(payload, type(message))


def decode_or_refuse(payload: bytes, kind: type) -> None:
    """Any exception but WireError fails the test, and an accepted message has every field of its declared type."""
    try:
        message = decode_message(payload, kind)
    except WireError:
        return
    example = DELTA if kind is StepDelta else UPDATE
    assert type(message) is kind
    for field in dataclasses.fields(kind):
        if field.name != "control_variate":
            assert type(getattr(message, field.name)) is type(getattr(example, field.name))
    assert all(isinstance(tensor, torch.Tensor) for tensor in message.tensors.values())


@EACH
def test_bytes_cut_anywhere_are_refused(message):
    payload, state = encode_message(message), encode_tensors(TENSORS)
    for length in range(len(payload)):
        with raises(WireError):
            decode_message(payload[:length], type(message))
    for length in range(len(state)):
        with raises(WireError):
            decode_tensors(state[:length])


@EACH
@settings(derandomize=True, deadline=None, max_examples=100)
@given(payload=st.binary(max_size=200))
def test_random_bytes_are_refused(message, payload):
    with raises(WireError):
        decode_message(payload, type(message))
    with raises(WireError):
        decode_tensors(payload)


@EACH
@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.data())
def test_a_damaged_message_is_refused_or_still_a_message(message, data):
    payload = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 4), label="damages")):
        place = data.draw(st.integers(0, len(payload)), label="place")
        length = data.draw(st.integers(0, 8), label="removed")
        payload[place : place + length] = data.draw(st.binary(max_size=8), label="inserted")
    decode_or_refuse(bytes(payload), type(message))


JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON_TREES = st.recursive(JSON_VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@EACH
@settings(derandomize=True, deadline=None, max_examples=100)
@given(data=st.data())
def test_random_json_is_refused_or_of_the_declared_types(message, data):
    valid = Valid(message, ROUND)
    names = data.draw(st.sets(st.sampled_from(sorted(valid.fields)), min_size=1), label="fields")
    decode_or_refuse(valid.with_fields(**{name: data.draw(JSON_TREES, label=name) for name in names}), type(message))
    header = data.draw(st.dictionaries(st.sampled_from(["__metadata__", "a", ""]), JSON_TREES), label="header")
    with raises(WireError):
        decode_message(pack(header), type(message))
    with raises(WireError):
        decode_tensors(pack({**header, "b": None}))
