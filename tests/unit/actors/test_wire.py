"""Client messages as bytes: what is sent arrives, and whatever is not a message is refused with WireError."""

import dataclasses
import json
import struct

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import mark, raises

from actors.errors import WireError
from actors.messages import LoRAUpdate, StepDelta
from actors.wire import decode_message, decode_tensors, encode_message, encode_tensors

STEP_FIELDS = {"client_id": "client-3", "round_index": 4, "base_version": 2, "branch": "real", "step": 5, "num_samples": 16}
UPDATE_FIELDS = {"client_id": "client-3", "round_index": 4, "base_version": 2, "num_samples": 80, "loss": 1.25, "train_s": 0.5}
KINDS = [(StepDelta, STEP_FIELDS), (LoRAUpdate, UPDATE_FIELDS)]
WRONG_TYPES = {str: [7, None, True, ["a"]], int: [1.0, "1", None, True, [1]], float: ["1.5", None, False, {}]}
EVERY_WRONG_FIELD = [
    (kind, fields, name, value) for kind, fields in KINDS for name in fields for value in WRONG_TYPES[type(fields[name])]
]


def make_tensors() -> dict[str, torch.Tensor]:
    return {"layer.0.lora_B": torch.tensor([[1.5, -2.0], [0.25, 3.0]]), "layer.0.lora_A": torch.tensor([0.5, -0.5, 4.0])}


def make_payload(header: object, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with this header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def make_header(kind: type, fields: object, **tensors: dict) -> dict:
    return {"__metadata__": {kind.__name__: json.dumps(fields)}, **tensors}


def assert_same_message(got: StepDelta | LoRAUpdate, sent: StepDelta | LoRAUpdate) -> None:
    assert type(got) is type(sent)
    for field in dataclasses.fields(sent):
        if field.name not in ("tensors", "control_variate"):
            assert getattr(got, field.name) == getattr(sent, field.name)
    assert_same_tensors(got.tensors, sent.tensors)


def assert_same_tensors(got: dict[str, torch.Tensor], sent: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(sent)
    for name, tensor in sent.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape
        assert got[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


@mark.parametrize(("kind", "fields"), KINDS)
def test_a_message_arrives_as_it_was_sent(kind, fields):
    sent = kind(**fields, tensors=make_tensors())
    assert_same_message(decode_message(encode_message(sent), kind), sent)


def test_a_control_variate_travels_beside_the_tensors_of_the_same_names():
    control = {name: -2 * tensor for name, tensor in make_tensors().items()}
    payload = encode_message(LoRAUpdate(**UPDATE_FIELDS, tensors=make_tensors(), control_variate=control))
    got = decode_message(payload, LoRAUpdate)
    assert_same_tensors(got.tensors, make_tensors())
    assert_same_tensors(got.control_variate, control)
    without = decode_message(encode_message(LoRAUpdate(**UPDATE_FIELDS, tensors=make_tensors())), LoRAUpdate)
    assert without.control_variate is None


def test_a_step_delta_has_no_control_variate():
    sent = StepDelta(**STEP_FIELDS, tensors={"control/layer.0.lora_B": torch.ones(2)})
    assert set(decode_message(encode_message(sent), StepDelta).tensors) == {"control/layer.0.lora_B"}


def test_a_hand_made_message_is_understood():
    data = struct.pack("<2f", 1.5, -2.0)
    header = make_header(StepDelta, STEP_FIELDS, b={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})
    message = decode_message(make_payload(header, data), StepDelta)
    assert (message.client_id, message.branch, message.step) == ("client-3", "real", 5)
    assert message.tensors["b"].tolist() == [1.5, -2.0]


def test_a_message_without_tensors_and_with_odd_text_arrives():
    sent = LoRAUpdate(**{**UPDATE_FIELDS, "client_id": 'Klinik "Süd" \n 東\x00'}, tensors={})
    assert_same_message(decode_message(encode_message(sent), LoRAUpdate), sent)


def test_a_whole_number_stands_for_a_float():
    header = make_header(LoRAUpdate, {**UPDATE_FIELDS, "loss": 1})
    assert decode_message(make_payload(header), LoRAUpdate).loss == 1


def test_tensors_arrive_to_the_bit():
    tensors = {
        "special": torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45]),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    assert_same_tensors(decode_tensors(encode_tensors(tensors)), tensors)


def test_equal_states_give_equal_bytes_in_any_order():
    state = make_tensors()
    backwards = {name: state[name].clone() for name in reversed(list(state))}
    assert list(backwards) != list(state)
    assert encode_tensors(backwards) == encode_tensors(state)


def test_different_states_give_different_bytes():
    state = make_tensors()
    changed = {**state, "layer.0.lora_A": torch.tensor([0.5, -0.5, 4.0000005])}
    renamed = {"layer.1.lora_A": state["layer.0.lora_A"], "layer.0.lora_B": state["layer.0.lora_B"]}
    assert len({encode_tensors(state), encode_tensors(changed), encode_tensors(renamed)}) == 3


@mark.parametrize(("sent", "expected"), [(StepDelta, LoRAUpdate), (LoRAUpdate, StepDelta)])
def test_a_message_of_the_other_kind_is_refused(sent, expected):
    payload = encode_message(sent(**dict(KINDS)[sent], tensors=make_tensors()))
    with raises(WireError, match=f"expected a {expected.__name__}, got \\['{sent.__name__}'\\]"):
        decode_message(payload, expected)


@mark.parametrize("payload", [None, "text", 5, bytearray(b"x" * 20), memoryview(b"x" * 20), [1, 2]])
def test_what_is_not_bytes_is_refused(payload):
    with raises(WireError, match=f"expected bytes, got {type(payload).__name__}"):
        decode_message(payload, StepDelta)


@mark.parametrize(("kind", "fields"), KINDS)
def test_a_message_cut_anywhere_is_refused(kind, fields):
    payload = encode_message(kind(**fields, tensors=make_tensors()))
    for length in range(len(payload)):
        with raises(WireError):
            decode_message(payload[:length], kind)


def test_an_adapter_cut_anywhere_is_refused():
    payload = encode_tensors(make_tensors())
    for length in range(len(payload)):
        with raises(WireError):
            decode_tensors(payload[:length])


def test_bytes_after_the_end_are_refused():
    payload = encode_message(StepDelta(**STEP_FIELDS, tensors=make_tensors()))
    with raises(WireError):
        decode_message(payload + b"\0", StepDelta)


@mark.parametrize("lie", [-1, 1, -200, 2**32, 2**63 - 1, 2**64 - 1 - 500])
def test_a_header_length_that_lies_is_refused(lie):
    payload = encode_message(StepDelta(**STEP_FIELDS, tensors=make_tensors()))
    (length,) = struct.unpack("<Q", payload[:8])
    with raises(WireError):
        decode_message(struct.pack("<Q", length + lie) + payload[8:], StepDelta)


def test_a_header_of_length_zero_is_refused():
    payload = encode_message(StepDelta(**STEP_FIELDS, tensors=make_tensors()))
    with raises(WireError, match="not JSON"):
        decode_message(struct.pack("<Q", 0) + payload[8:], StepDelta)


def test_a_header_above_four_mebibytes_is_refused_unread():
    header = json.dumps(make_header(StepDelta, STEP_FIELDS)).encode()
    padded = header + b" " * ((4 << 20) + 1 - len(header))
    with raises(WireError, match="header claims 4194305 bytes"):
        decode_message(make_payload(padded), StepDelta)


@mark.parametrize("header", [b"", b"{", b"nonsense", b"\xff\xfe\x00", b'{"a": 1}}', b"[" * 100_000, b'{"a":' * 100_000])
def test_a_header_that_is_not_json_is_refused(header):
    with raises(WireError, match="the header is not JSON"):
        decode_message(make_payload(header), StepDelta)


@mark.parametrize("header", [[], 1, None, "text", {}, {"__metadata__": None}, {"__metadata__": []}, {"__metadata__": "kind"}])
def test_a_header_without_fields_is_refused(header):
    with raises(WireError, match="the header has no fields"):
        decode_message(make_payload(header), StepDelta)


@mark.parametrize("kind", ["stepdelta", "", "Admission"])
def test_an_unknown_kind_is_refused(kind):
    header = {"__metadata__": {kind: json.dumps(STEP_FIELDS)}}
    with raises(WireError, match="expected a StepDelta"):
        decode_message(make_payload(header), StepDelta)


@mark.parametrize("fields", [None, 5, STEP_FIELDS, [], "", "{", "[" * 100_000, "1" * 5000])
def test_fields_that_are_no_json_text_are_refused(fields):
    with raises(WireError, match="fields are not JSON"):
        decode_message(make_payload({"__metadata__": {"StepDelta": fields}}), StepDelta)


@mark.parametrize("fields", [None, 5, [], "text", {}, list(STEP_FIELDS)])
def test_fields_that_are_no_object_with_the_names_are_refused(fields):
    with raises(WireError, match="expected the fields"):
        decode_message(make_payload(make_header(StepDelta, fields)), StepDelta)


@mark.parametrize(("kind", "fields", "missing"), [(kind, fields, name) for kind, fields in KINDS for name in fields])
def test_a_missing_field_is_refused(kind, fields, missing):
    rest = {name: value for name, value in fields.items() if name != missing}
    with raises(WireError, match=f"expected the fields .*{missing}"):
        decode_message(make_payload(make_header(kind, rest)), kind)


@mark.parametrize(("kind", "fields"), KINDS)
@mark.parametrize("extra", ["dataset", "tensors", "label", ""])
def test_an_extra_field_is_refused(kind, fields, extra):
    with raises(WireError, match="expected the fields"):
        decode_message(make_payload(make_header(kind, {**fields, extra: 1})), kind)


@mark.parametrize(("kind", "fields", "name", "value"), EVERY_WRONG_FIELD)
def test_a_field_of_the_wrong_type_is_refused_by_name(kind, fields, name, value):
    with raises(WireError, match=f"field {name} should be {type(fields[name]).__name__}"):
        decode_message(make_payload(make_header(kind, {**fields, name: value})), kind)


@mark.parametrize(
    "tensor",
    [
        {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
        {},
        None,
        [],
    ],
)
def test_a_tensor_entry_that_makes_no_sense_is_refused(tensor):
    with raises(WireError, match="not a safetensors message"):
        decode_message(make_payload(make_header(StepDelta, STEP_FIELDS, a=tensor), b"\0" * 8), StepDelta)


def test_tensors_that_overlap_are_refused():
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    with raises(WireError, match="not a safetensors message"):
        decode_message(make_payload(make_header(StepDelta, STEP_FIELDS, a=entry, b=entry), b"\0" * 8), StepDelta)


def decode_or_refuse(payload: bytes, kind: type) -> None:
    """Any exception but WireError fails the test, and what is accepted has every field of its declared type."""
    try:
        message = decode_message(payload, kind)
    except WireError:
        return
    assert type(message) is kind
    for name, value in dict(KINDS)[kind].items():
        allowed = (int, float) if isinstance(value, float) else type(value)
        assert isinstance(getattr(message, name), allowed) and not isinstance(getattr(message, name), bool)
    assert all(isinstance(tensor, torch.Tensor) for tensor in message.tensors.values())


@settings(derandomize=True, deadline=None, max_examples=200)
@given(payload=st.binary(max_size=200))
def test_random_bytes_are_refused(payload):
    for kind, _ in KINDS:
        with raises(WireError):
            decode_message(payload, kind)
    with raises(WireError):
        decode_tensors(payload)


JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON_TREES = st.recursive(JSON_VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(header=st.dictionaries(st.sampled_from(["__metadata__", "a", ""]), JSON_TREES), data=st.binary(max_size=8))
def test_random_json_as_header_is_refused(header, data):
    with raises(WireError):
        decode_message(make_payload(header, data), StepDelta)
    with raises(WireError):
        decode_tensors(make_payload({**header, "b": None}, data))


@settings(derandomize=True, deadline=None, max_examples=400)
@given(data=st.data(), kind=st.sampled_from([StepDelta, LoRAUpdate]))
def test_a_damaged_message_is_refused_or_still_a_message(data, kind):
    header = make_header(kind, dict(KINDS)[kind], b={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})
    payload = bytearray(make_payload(header, struct.pack("<2f", 1.5, -2.0)))
    for _ in range(data.draw(st.integers(1, 4), label="damages")):
        place = data.draw(st.integers(0, len(payload)), label="place")
        length = data.draw(st.integers(0, 8), label="removed")
        payload[place : place + length] = data.draw(st.binary(max_size=8), label="inserted")
    decode_or_refuse(bytes(payload), kind)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.data(), kind=st.sampled_from([StepDelta, LoRAUpdate]))
def test_random_field_values_are_refused_or_of_the_declared_type(data, kind):
    fields = dict(dict(KINDS)[kind])
    for name in data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1), label="fields"):
        fields[name] = data.draw(JSON_TREES, label=name)
    decode_or_refuse(make_payload(make_header(kind, fields)), kind)


def test_equal_messages_give_equal_bytes():
    sent = [encode_message(StepDelta(**STEP_FIELDS, tensors=make_tensors())) for _ in range(20)]
    assert len(set(sent)) == 1


@mark.parametrize("number", [2**63, -(2**63), 10**400])
@mark.parametrize("name", ["round_index", "num_samples", "loss"])
def test_a_number_beyond_64_bits_is_refused_by_name(name, number):
    fields = {**dict(KINDS)[LoRAUpdate], name: number}
    with raises(WireError, match=f"field {name} does not fit 64 bits"):
        decode_message(make_payload(make_header(LoRAUpdate, fields)), LoRAUpdate)
