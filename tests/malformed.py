"""What attackers send instead of a client's messages: for the fuzz tests and the fuzz benchmark.

Every kind is a small function in a table, from a name to how it is made and the reason it must be refused for. It takes a
message that would be admitted and a generator, and returns the payload. `UPDATES` replace an update, `DELTAS` a step
delta, `LAST_STEPS` the pair of an update and the step delta that must equal its delta. `LEGAL` are pairs that look odd
and keep every rule, so they must be admitted. A flipped bit in a tensor's value is no kind: it makes another update.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import torch

from actors.messages import LoRAUpdate, StepDelta
from actors.wire import encode_message
from defense.admission import OpenRound, Reason

Tensors = Mapping[str, torch.Tensor]
_DTYPES = "float64 float16 bfloat16 float8_e4m3fn int64 int32 int8 uint8 bool complex64".split()
_ABSURD_SIZES = [[0, 2**40, 2**40], [0, 2**62, 2**62], [0, 2**63 - 1, 3]]
"""Shapes without a value, whose strides do not fit 64 bits."""


@dataclass(frozen=True, slots=True)
class Valid:
    """A message that would be admitted, and the round that asks for it."""

    message: StepDelta | LoRAUpdate
    expected: OpenRound

    @property
    def payload(self) -> bytes:
        return encode_message(self.message)

    @property
    def kind(self) -> str:
        return type(self.message).__name__

    @property
    def most_samples(self) -> int:
        return self.expected.batch_size if isinstance(self.message, StepDelta) else self.expected.max_samples


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an honest client hands in: its update, and the last real step delta, which is the update's delta."""

    update: LoRAUpdate
    last: StepDelta
    adapter: Tensors
    """The global adapter."""
    expected: OpenRound

    @property
    def valid_update(self) -> Valid:
        return Valid(self.update, self.expected)

    @property
    def valid_last(self) -> Valid:
        return Valid(self.last, self.expected)

    @property
    def payloads(self) -> tuple[bytes, bytes]:
        return encode_message(self.update), encode_message(self.last)

    def signed(self, client_id: str) -> Delivery:
        """The same from another client."""
        return replace(self, update=replace(self.update, client_id=client_id), last=replace(self.last, client_id=client_id))

    def moved_to(self, tensors: Tensors) -> Delivery:
        """With these tensors in the update, and the last step delta that belongs to them."""
        delta = {name: tensors[name] - self.adapter[name] for name in self.last.tensors}
        return replace(self, update=replace(self.update, tensors=tensors), last=replace(self.last, tensors=delta))


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to be malformed."""

    make: Callable[[Valid, Random], Any]
    reason: Reason | None
    """None: it depends on the place that was hit."""


# Taking messages apart


def unpack(payload: bytes) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", payload[:8])
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


def pack(header: object, data: bytes) -> bytes:
    """A safetensors file with this header, valid or not; bytes stand for themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_fields(valid: Valid, **changes: object) -> bytes:
    """The message with other plain fields, of whatever type."""
    header, data = unpack(valid.payload)
    fields = json.loads(header["__metadata__"][valid.kind]) | changes
    return pack({**header, "__metadata__": {valid.kind: json.dumps(fields)}}, data)


def with_metadata(valid: Valid, metadata: object) -> bytes:
    """The message with another text, or something else, in place of its plain fields."""
    header, data = unpack(valid.payload)
    return pack({**header, "__metadata__": metadata}, data)


def with_entry(valid: Valid, rng: Random, **changes: object) -> bytes:
    """The message with another description of one of its tensors."""
    header, data = unpack(valid.payload)
    name = some_name(valid.message.tensors, rng)
    return pack({**header, name: header[name] | changes}, data)


def with_tensors(valid: Valid, tensors: Tensors) -> bytes:
    return encode_message(replace(valid.message, tensors=tensors))


def with_tensor(valid: Valid, rng: Random, change: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    """The message with one of its tensors changed."""
    name = some_name(valid.message.tensors, rng)
    return with_tensors(valid, {**valid.message.tensors, name: change(valid.message.tensors[name])})


def with_value(tensor: torch.Tensor, rng: Random, value: float) -> torch.Tensor:
    """The tensor with another value in one place."""
    changed = tensor.clone()
    changed.view(-1)[rng.randrange(tensor.numel())] = value
    return changed


def some_name(tensors: Tensors, rng: Random) -> str:
    return rng.choice(sorted(tensors))


def frame_of(payload: bytes) -> list[int]:
    """Places of the header outside the plain fields, where no bit can be flipped without harm."""
    (length,) = struct.unpack("<Q", payload[:8])
    header = payload[8 : 8 + length]
    begin = header.index(b'"{') + 1
    end = header.index(b'}"}', begin) + 1
    return [8 + place for place in range(length) if not begin <= place < end]


# Bytes


def not_bytes(valid: Valid, rng: Random) -> object:
    return rng.choice([None, "text", 7, 1.5, True, [], {}, (valid.payload,), valid.message.client_id])


def a_bytearray(valid: Valid, rng: Random) -> bytearray:
    return bytearray(valid.payload)


def a_memoryview(valid: Valid, rng: Random) -> memoryview:
    return memoryview(valid.payload)


def empty(valid: Valid, rng: Random) -> bytes:
    return b""


def random_bytes(valid: Valid, rng: Random) -> bytes:
    return rng.randbytes(rng.choice([1, 7, 8, 9, 64, 4096]))


def random_after_a_length(valid: Valid, rng: Random) -> bytes:
    return pack(rng.randbytes(rng.randrange(1, 200)), rng.randbytes(64))


def pickled(valid: Valid, rng: Random) -> bytes:
    return pickle.dumps({"tensors": [1.0], "client_id": valid.message.client_id})


def truncated(valid: Valid, rng: Random) -> bytes:
    return valid.payload[: rng.randrange(len(valid.payload))]


def without_a_piece(valid: Valid, rng: Random) -> bytes:
    begin = rng.randrange(len(valid.payload))
    return valid.payload[:begin] + valid.payload[begin + rng.randint(1, 64) :]


def with_a_piece_more(valid: Valid, rng: Random) -> bytes:
    place = rng.randrange(len(valid.payload))
    return valid.payload[:place] + rng.randbytes(rng.randint(1, 64)) + valid.payload[place:]


def trailing_garbage(valid: Valid, rng: Random) -> bytes:
    return valid.payload + rng.choice([b"\0", b"\0" * 8, rng.randbytes(rng.randint(1, 100))])


def sent_twice_in_one(valid: Valid, rng: Random) -> bytes:
    return valid.payload * 2


# Header length and header text


def bit_flip_in_the_header(valid: Valid, rng: Random) -> bytes:
    changed = bytearray(valid.payload)
    changed[rng.choice(frame_of(valid.payload))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bit_flip_in_the_length(valid: Valid, rng: Random) -> bytes:
    (length,) = struct.unpack("<Q", valid.payload[:8])
    return struct.pack("<Q", length ^ 1 << rng.randrange(64)) + valid.payload[8:]


def absurd_length(valid: Valid, rng: Random) -> bytes:
    size = len(valid.payload)
    claimed = rng.choice([0, 1, size - 7, size, size * 2, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1])
    return struct.pack("<Q", claimed) + valid.payload[8:]


def deep_header(valid: Valid, rng: Random) -> bytes:
    opening = rng.choice([b"[", b'{"a":', b'{"__metadata__":'])
    return pack(opening * rng.choice([200, 5000, 50_000]), b"")


def deep_beside_the_tensors(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    depth = rng.choice([200, 5000, 50_000])
    return pack(json.dumps(header)[:-1].encode() + b', "deep": ' + b"[" * depth + b"]" * depth + b"}", data)


def deep_fields(valid: Valid, rng: Random) -> bytes:
    return with_metadata(valid, {valid.kind: rng.choice(["[", '{"client_id":']) * rng.choice([200, 5000, 50_000])})


def endless_integer_in_the_header(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    name = some_name(valid.message.tensors, rng)
    digits = "9" * rng.choice([20, 400, 5000, 100_000])
    text = json.dumps({**header, name: header[name] | {"shape": ["HERE"]}})
    return pack(text.replace('"HERE"', digits).encode(), data)


def endless_integer_in_a_field(valid: Valid, rng: Random) -> bytes:
    digits = "9" * rng.choice([20, 400, 5000, 100_000])
    return with_metadata(valid, {valid.kind: fields_text(valid, num_samples="HERE").replace('"HERE"', digits)})


def tensor_twice(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    name = some_name(valid.message.tensors, rng)
    again = f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    return pack((json.dumps(header)[:-1] + again).encode(), data)


def fields_twice(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    first = f'{{"__metadata__": {{{json.dumps(valid.kind)}: "{{}}", '
    return pack(json.dumps(header).replace('{"__metadata__": {', first, 1).encode(), data)


def metadata_twice(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    return pack(b'{"__metadata__": {"Admission": "{}"}, ' + json.dumps(header)[1:].encode(), data)


def field_twice(valid: Valid, rng: Random) -> bytes:
    name = rng.choice(["client_id", "round_index", "num_samples"])
    value = getattr(valid.message, name)
    text = fields_text(valid)
    return with_metadata(valid, {valid.kind: f"{text[:-1]}, {json.dumps(name)}: {json.dumps(value)}}}"})


def header_that_is_no_object(valid: Valid, rng: Random) -> bytes:
    _, data = unpack(valid.payload)
    return pack(rng.choice([b"[]", b"null", b"7", b'"text"', b"", b"{}", b" ", b"NaN", b"\0" * 64]), data)


def header_in_another_encoding(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    return pack(json.dumps(header).encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])), data)


def lone_surrogate_as_key(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    return pack({**header, "\ud800": header[some_name(valid.message.tensors, rng)]}, data)


def constant_that_is_no_json(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    return pack({**header, "x": rng.choice([float("nan"), float("inf"), -float("inf")])}, data)


# Plain fields


def fields_text(valid: Valid, **changes: object) -> str:
    header, _ = unpack(valid.payload)
    return json.dumps(json.loads(header["__metadata__"][valid.kind]) | changes)


def another_kind(valid: Valid, rng: Random) -> bytes:
    own = valid.message
    fields = {name: getattr(own, name) for name in ("client_id", "round_index", "base_version", "num_samples", "tensors")}
    if isinstance(own, StepDelta):
        return encode_message(LoRAUpdate(**fields, loss=1.0, train_s=1.0))
    return encode_message(StepDelta(**fields, branch="real", step=1))


def unheard_of_kind(valid: Valid, rng: Random) -> bytes:
    return with_metadata(valid, {rng.choice(["", "Admission", valid.kind.lower(), f"{valid.kind} "]): fields_text(valid)})


def two_kinds(valid: Valid, rng: Random) -> bytes:
    return with_metadata(valid, {valid.kind: fields_text(valid), "Admission": "{}"})


def metadata_that_is_no_object(valid: Valid, rng: Random) -> bytes:
    return with_metadata(valid, rng.choice([None, [], 7, "text", {}, True]))


def fields_that_are_no_text(valid: Valid, rng: Random) -> bytes:
    return with_metadata(valid, {valid.kind: rng.choice([None, 7, [], json.loads(fields_text(valid)), True])})


def fields_that_are_no_json(valid: Valid, rng: Random) -> bytes:
    text = fields_text(valid)
    return with_metadata(valid, {valid.kind: rng.choice(["", "{", "nonsense", text[:-1], text + "}"])})


def fields_that_are_no_object(valid: Valid, rng: Random) -> bytes:
    return with_metadata(valid, {valid.kind: rng.choice(["null", "[]", "7", '"text"', "{}", "NaN"])})


def missing_field(valid: Valid, rng: Random) -> bytes:
    fields = json.loads(fields_text(valid))
    del fields[rng.choice(sorted(fields))]
    return with_metadata(valid, {valid.kind: json.dumps(fields)})


def extra_field(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, **{rng.choice(["tensors", "malicious", "weight", "__class__", ""]): 1})


def megabyte_in_an_extra_field(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, note="x" * 2**20)


def integer_of_another_type(valid: Valid, rng: Random) -> bytes:
    name = rng.choice([name for name, value in json.loads(fields_text(valid)).items() if type(value) is int])
    value = getattr(valid.message, name)
    return with_fields(valid, **{name: rng.choice([float(value), str(value), None, [value], {"value": value}])})


def boolean_for_a_number(valid: Valid, rng: Random) -> bytes:
    numbers = [name for name, value in json.loads(fields_text(valid)).items() if not isinstance(value, str)]
    return with_fields(valid, **{rng.choice(numbers): rng.choice([True, False])})


def text_of_another_type(valid: Valid, rng: Random) -> bytes:
    names = [name for name, value in json.loads(fields_text(valid)).items() if isinstance(value, str)]
    return with_fields(valid, **{rng.choice(names): rng.choice([None, 7, True, [valid.message.client_id], {}])})


def not_a_number_of_samples(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, num_samples=rng.choice([float("nan"), float("inf"), -float("inf"), 1e308]))


def beyond_64_bits(valid: Valid, rng: Random) -> bytes:
    name = rng.choice(["round_index", "base_version", "num_samples"])
    return with_fields(valid, **{name: rng.choice([1, -1]) * rng.choice([2**63, 2**64, 10**400])})


def infinite_log_figure(valid: Valid, rng: Random) -> bytes:
    name = rng.choice(["loss", "train_s"])
    text = fields_text(valid, **{name: "HERE"}).replace('"HERE"', rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "-1e999"]))
    return with_metadata(valid, {valid.kind: text})


def unheard_of_branch(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, branch=rng.choice(["", "Real", "update", "real ", "shadow\0", "x" * 2**20]))


# Who and when


def signed_by_another(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, client_id=rng.choice(sorted(valid.expected.client_ids - {valid.message.client_id})))


def signed_by_nobody(valid: Valid, rng: Random) -> bytes:
    own = valid.message.client_id
    return with_fields(valid, client_id=rng.choice(["", "nobody", f"{own} ", f"{own}\0", "\ud800", "\x1b[2J\n", "[/red]"]))


def signed_with_a_megabyte(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, client_id="x" * 2**20)


def wrong_round(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, round_index=_other_number(valid.expected.round_index, rng))


def wrong_version(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, base_version=_other_number(valid.expected.base_version, rng))


def _other_number(number: int, rng: Random) -> int:
    return rng.choice([number - 1, number + 1, -number - 1, 2**31 + number, 2**63 - 1, 1 - 2**63])


def bad_number_of_samples(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, num_samples=rng.choice([0, -1, valid.most_samples + 1, 2**31, 2**63 - 1, 1 - 2**63]))


def bad_step(valid: Valid, rng: Random) -> bytes:
    return with_fields(valid, step=rng.choice([0, -1, valid.expected.num_steps + 1, 2**31, 2**63 - 1, 1 - 2**63]))


# Tensors: their names


def missing_key(valid: Valid, rng: Random) -> bytes:
    gone = some_name(valid.message.tensors, rng)
    return with_tensors(valid, {name: tensor for name, tensor in valid.message.tensors.items() if name != gone})


def extra_key(valid: Valid, rng: Random) -> bytes:
    name = rng.choice(["extra", "", "x" * 2**20, "\x1b[2J\n", "[/red]", "__class__"])
    return with_tensors(valid, {**valid.message.tensors, name: torch.zeros(rng.choice([0, 1, 4]))})


def renamed_key(valid: Valid, rng: Random) -> bytes:
    tensors = dict(valid.message.tensors)
    name = some_name(tensors, rng)
    tensors[rng.choice([f"{name} ", name.upper(), name[1:], name.replace("lora_", "lora_X"), f"{name}\0"])] = tensors.pop(name)
    return with_tensors(valid, tensors)


def no_tensors(valid: Valid, rng: Random) -> bytes:
    return with_tensors(valid, {})


def thousands_of_tensors(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    return pack({**header, **{f"{i}": nothing for i in range(2_000)}}, data)


# Tensors: shape and type


def another_shape(valid: Valid, rng: Random) -> bytes:
    changes = [
        lambda t: torch.cat([t, t[:1]]),
        lambda t: t[:-1],
        lambda t: t[None],
        lambda t: t.reshape(-1),
        lambda t: t.reshape(1, *t.shape, 1),
        lambda t: t.reshape(-1, 1),
        lambda t: t.reshape(*[1] * 70, *t.shape),
    ]
    return with_tensor(valid, rng, rng.choice(changes))


def no_dimension(valid: Valid, rng: Random) -> bytes:
    return with_tensor(valid, rng, lambda t: t.reshape(-1)[0])


def no_value(valid: Valid, rng: Random) -> bytes:
    return with_tensor(valid, rng, lambda t: t.reshape(-1)[:0].reshape(rng.choice([(0,), (0, 5), (5, 0), (0, 2**40)])))


def many_thousand_dimensions(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    name = some_name(valid.message.tensors, rng)
    return pack({**header, name: header[name] | {"shape": [1] * 100_000 + header[name]["shape"]}}, data)


def shape_without_strides(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    entry = {"dtype": "F32", "shape": rng.choice(_ABSURD_SIZES), "data_offsets": [len(data), len(data)]}
    return pack({**header, "extra": entry}, data)


def another_dtype(dtype: str, valid: Valid, rng: Random) -> bytes:
    return with_tensor(valid, rng, lambda t: t.to(getattr(torch, dtype)))


def same_bytes_as_integers(valid: Valid, rng: Random) -> bytes:
    return with_entry(valid, rng, dtype=rng.choice(["I32", "U32"]))


# Tensors: their description in the header


def unheard_of_dtype(valid: Valid, rng: Random) -> bytes:
    return with_entry(valid, rng, dtype=rng.choice(["F33", "f32", "", "F4", "F8_E8M0", "\x1b[2J\n" * 1000, None, 32, ["F32"]]))


def absurd_shape(valid: Valid, rng: Random) -> bytes:
    shapes = [[-1], [-2, -3], [2**62, 4], [2**63], [2**64], [10**30], [1.0], ["2"], [True], [None], "2", None, {}, [[2]]]
    return with_entry(valid, rng, shape=rng.choice(shapes))


def absurd_offsets(valid: Valid, rng: Random) -> bytes:
    end = len(unpack(valid.payload)[1])
    choices = [[-4, 4], [end, 0], [end, end + 64], [0, 2**64 - 1], [2**63, 2**63 + 4], [0.0, 8.0], [0], [0, 4, 8], "0", None]
    return with_entry(valid, rng, data_offsets=rng.choice(choices))


def overlapping_tensors(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    name = some_name(valid.message.tensors, rng)
    return pack({**header, "extra": header[name]}, data)


def hole_between_tensors(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    for name in valid.message.tensors:
        header[name]["data_offsets"] = [at + 4 for at in header[name]["data_offsets"]]
    return pack(header, b"\0" * 4 + data)


def tensors_that_run_past_the_end(valid: Valid, rng: Random) -> bytes:
    return valid.payload[: -rng.randint(1, 4)]


def description_that_is_none(valid: Valid, rng: Random) -> bytes:
    header, data = unpack(valid.payload)
    name = some_name(valid.message.tensors, rng)
    incomplete = dict(header[name])
    del incomplete[rng.choice(sorted(incomplete))]
    return pack({**header, name: rng.choice([None, [], "text", {}, 7, incomplete])}, data)


# Tensors: their values


def one_value(value: float, valid: Valid, rng: Random) -> bytes:
    return with_tensor(valid, rng, lambda t: with_value(t, rng, value))


def all_values(value: float, valid: Valid, rng: Random) -> bytes:
    return with_tensors(valid, {name: torch.full_like(tensor, value) for name, tensor in valid.message.tensors.items()})


def nan_of_any_bits(valid: Valid, rng: Random) -> bytes:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        bits = 0x7F800000 | rng.randint(1, 0x7FFFFF)
        changed.view(-1).view(torch.int32)[rng.randrange(tensor.numel())] = rng.choice([bits, bits - 2**31])
        return changed

    return with_tensor(valid, rng, spoil)


def huge_norm(valid: Valid, rng: Random) -> bytes:
    factor = rng.choice([1e10, 1e20, 1e30])
    return with_tensors(valid, {name: tensor + factor for name, tensor in valid.message.tensors.items()})


def norm_above_the_bound(valid: Valid, rng: Random) -> bytes:
    """One value of a tensor that the probe reads moves by more than twice the bound."""
    names = [name for name in valid.message.tensors if ".lora_B." in name and ".layers.0." in name]
    name, sign = rng.choice(sorted(names)), rng.choice([1, -1])
    moved = with_value(valid.message.tensors[name], rng, sign * 3 * valid.expected.max_norm)
    return with_tensors(valid, {**valid.message.tensors, name: moved})


# Updates and the step deltas that do not belong to them


def _last(change: Callable[[Valid, Random], Any], delivery: Delivery, rng: Random) -> tuple[bytes, Any]:
    return encode_message(delivery.update), change(delivery.valid_last, rng)


def no_last_step(delivery: Delivery, rng: Random) -> tuple[bytes, None]:
    return encode_message(delivery.update), None


def update_as_last_step(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    return (encode_message(delivery.update),) * 2


def last_step_of_the_shadow(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    return encode_message(delivery.update), encode_message(replace(delivery.last, branch="shadow"))


def one_bit_of_the_last_step(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    return encode_message(delivery.update), with_tensor(delivery.valid_last, rng, lambda t: _with_a_bit_flipped(t, rng, 31))


def update_moved_by_one_ulp(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    name = some_name(delivery.last.tensors, rng)
    other = torch.nextafter(delivery.update.tensors[name], torch.tensor(rng.choice([1e3, -1e3])))
    return with_tensors(delivery.valid_update, {**delivery.update.tensors, name: other}), encode_message(delivery.last)


def _with_a_bit_flipped(tensor: torch.Tensor, rng: Random, num_bits: int) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1).view(torch.int32)[rng.randrange(tensor.numel())] ^= 1 << rng.randrange(num_bits)
    return changed


def zero_with_the_other_sign(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    """A value that did not move: 0.0 in the delta, -0.0 in the step delta."""
    name = some_name(delivery.last.tensors, rng)
    start = delivery.adapter[name]
    place = rng.randrange(start.numel())
    tensor = delivery.update.tensors[name].clone()
    tensor.view(-1)[place] = start.reshape(-1)[place] + 0.0
    still = delivery.moved_to({**delivery.update.tensors, name: tensor})
    last = still.last.tensors[name].clone()
    last.view(-1)[place] = -0.0
    return encode_message(still.update), encode_message(replace(still.last, tensors={**still.last.tensors, name: last}))


def opposite_last_step(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    opposite = {name: -tensor for name, tensor in delivery.last.tensors.items()}
    return encode_message(delivery.update), encode_message(replace(delivery.last, tensors=opposite))


def last_step_without_tensors(delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    return encode_message(delivery.update), encode_message(replace(delivery.last, tensors={}))


# Odd, and within every rule


def unmoved(delivery: Delivery, rng: Random) -> Delivery:
    return delivery.moved_to({name: tensor.clone() for name, tensor in delivery.adapter.items()})


def denormal(delivery: Delivery, rng: Random) -> Delivery:
    """Values of 1e-45 to 1e-38 where the global adapter is zero, and no movement elsewhere."""
    return delivery.moved_to(
        {
            name: torch.where(tensor == 0, torch.full_like(tensor, rng.choice([1e-45, -1e-45, 1e-40, 1.1e-38])), tensor)
            for name, tensor in delivery.adapter.items()
        }
    )


def minus_zero(delivery: Delivery, rng: Random) -> Delivery:
    return delivery.moved_to({name: torch.where(tensor == 0, -0.0, tensor) for name, tensor in delivery.adapter.items()})


def flipped_mantissa(delivery: Delivery, rng: Random) -> Delivery:
    name = some_name(delivery.last.tensors, rng)
    changed = _with_a_bit_flipped(delivery.update.tensors[name], rng, 23)
    return delivery.moved_to({**delivery.update.tensors, name: changed})


def norm_just_below_the_bound(delivery: Delivery, rng: Random) -> Delivery:
    name = some_name(delivery.last.tensors, rng)
    tensors = {key: tensor.clone() for key, tensor in delivery.adapter.items()}
    tensors[name].view(-1)[rng.randrange(tensors[name].numel())] += 0.999 * delivery.expected.max_norm
    return delivery.moved_to(tensors)


def one_sample(delivery: Delivery, rng: Random) -> Delivery:
    return replace(delivery, update=replace(delivery.update, num_samples=1))


def odd_log_figures(delivery: Delivery, rng: Random) -> Delivery:
    figures = [0, -1, 2**53 + 1, 2**63 - 1, -0.0, 5e-324, 1.7e308, -1.7e308]
    return replace(delivery, update=replace(delivery.update, loss=rng.choice(figures), train_s=rng.choice(figures)))


def padded_header(payload: bytes, rng: Random) -> bytes:
    header, data = unpack(payload)
    return pack(json.dumps(header).encode() + b" " * rng.choice([1, 8, 4096]), data)


def header_in_another_order(payload: bytes, rng: Random) -> bytes:
    header, data = unpack(payload)
    return pack(dict(rng.sample(sorted(header.items()), len(header))), data)


def roomy_fields(payload: bytes, rng: Random) -> bytes:
    header, data = unpack(payload)
    ((kind, text),) = header["__metadata__"].items()
    return pack({**header, "__metadata__": {kind: json.dumps(json.loads(text), indent=4, sort_keys=True)}}, data)


def _moved(change: Callable[[Delivery, Random], Delivery], delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    return change(delivery, rng).payloads


def _rewritten(change: Callable[[bytes, Random], bytes], delivery: Delivery, rng: Random) -> tuple[bytes, bytes]:
    update, last = delivery.payloads
    return change(update, rng), change(last, rng)


# The tables

EITHER: dict[str, Kind] = {
    "not bytes": Kind(not_bytes, Reason.MALFORMED),
    "a bytearray": Kind(a_bytearray, Reason.MALFORMED),
    "a memoryview": Kind(a_memoryview, Reason.MALFORMED),
    "empty": Kind(empty, Reason.MALFORMED),
    "random bytes": Kind(random_bytes, Reason.MALFORMED),
    "random bytes after a length": Kind(random_after_a_length, Reason.MALFORMED),
    "pickled": Kind(pickled, Reason.MALFORMED),
    "truncated": Kind(truncated, Reason.MALFORMED),
    "a piece cut out": Kind(without_a_piece, Reason.MALFORMED),
    "a piece inserted": Kind(with_a_piece_more, Reason.MALFORMED),
    "trailing garbage": Kind(trailing_garbage, Reason.MALFORMED),
    "sent twice in one": Kind(sent_twice_in_one, Reason.MALFORMED),
    "bit flip in the header": Kind(bit_flip_in_the_header, None),
    "bit flip in the length": Kind(bit_flip_in_the_length, Reason.MALFORMED),
    "absurd length": Kind(absurd_length, Reason.MALFORMED),
    "deep header": Kind(deep_header, Reason.MALFORMED),
    "deep value beside the tensors": Kind(deep_beside_the_tensors, Reason.MALFORMED),
    "deep fields": Kind(deep_fields, Reason.MALFORMED),
    "endless integer in the header": Kind(endless_integer_in_the_header, Reason.MALFORMED),
    "endless integer in a field": Kind(endless_integer_in_a_field, Reason.MALFORMED),
    "a tensor twice": Kind(tensor_twice, Reason.MALFORMED),
    "the fields twice": Kind(fields_twice, Reason.MALFORMED),
    "the metadata twice": Kind(metadata_twice, Reason.MALFORMED),
    "a field twice": Kind(field_twice, Reason.MALFORMED),
    "a header that is no object": Kind(header_that_is_no_object, Reason.MALFORMED),
    "a header in another encoding": Kind(header_in_another_encoding, Reason.MALFORMED),
    "a lone surrogate as key": Kind(lone_surrogate_as_key, Reason.MALFORMED),
    "a constant that is no JSON": Kind(constant_that_is_no_json, Reason.MALFORMED),
    "another kind": Kind(another_kind, Reason.MALFORMED),
    "an unheard-of kind": Kind(unheard_of_kind, Reason.MALFORMED),
    "two kinds": Kind(two_kinds, Reason.MALFORMED),
    "metadata that is no object": Kind(metadata_that_is_no_object, Reason.MALFORMED),
    "fields that are no text": Kind(fields_that_are_no_text, Reason.MALFORMED),
    "fields that are no JSON": Kind(fields_that_are_no_json, Reason.MALFORMED),
    "fields that are no object": Kind(fields_that_are_no_object, Reason.MALFORMED),
    "a missing field": Kind(missing_field, Reason.MALFORMED),
    "an extra field": Kind(extra_field, Reason.MALFORMED),
    "a megabyte in an extra field": Kind(megabyte_in_an_extra_field, Reason.MALFORMED),
    "an integer of another type": Kind(integer_of_another_type, Reason.MALFORMED),
    "a boolean for a number": Kind(boolean_for_a_number, Reason.MALFORMED),
    "a text of another type": Kind(text_of_another_type, Reason.MALFORMED),
    "NaN in num_samples": Kind(not_a_number_of_samples, Reason.MALFORMED),
    "beyond 64 bits": Kind(beyond_64_bits, Reason.MALFORMED),
    "an unheard-of dtype": Kind(unheard_of_dtype, Reason.MALFORMED),
    "an absurd shape": Kind(absurd_shape, Reason.MALFORMED),
    "a shape without strides": Kind(shape_without_strides, Reason.MALFORMED),
    "absurd offsets": Kind(absurd_offsets, Reason.MALFORMED),
    "overlapping tensors": Kind(overlapping_tensors, Reason.MALFORMED),
    "a hole between tensors": Kind(hole_between_tensors, Reason.MALFORMED),
    "tensors past the end": Kind(tensors_that_run_past_the_end, Reason.MALFORMED),
    "a tensor without description": Kind(description_that_is_none, Reason.MALFORMED),
    "signed by another": Kind(signed_by_another, Reason.UNKNOWN_CLIENT),
    "signed by nobody": Kind(signed_by_nobody, Reason.UNKNOWN_CLIENT),
    "signed with a megabyte": Kind(signed_with_a_megabyte, Reason.UNKNOWN_CLIENT),
    "wrong round": Kind(wrong_round, Reason.WRONG_ROUND),
    "wrong version": Kind(wrong_version, Reason.WRONG_VERSION),
    "a bad number of samples": Kind(bad_number_of_samples, Reason.BAD_COUNT),
    "a missing key": Kind(missing_key, Reason.WRONG_KEYS),
    "an extra key": Kind(extra_key, Reason.WRONG_KEYS),
    "a renamed key": Kind(renamed_key, Reason.WRONG_KEYS),
    "no tensors": Kind(no_tensors, Reason.WRONG_KEYS),
    "thousands of tensors": Kind(thousands_of_tensors, Reason.WRONG_KEYS),
    "another shape": Kind(another_shape, Reason.WRONG_SHAPE),
    "no dimension": Kind(no_dimension, Reason.WRONG_SHAPE),
    "no value": Kind(no_value, Reason.WRONG_SHAPE),
    "many thousand dimensions": Kind(many_thousand_dimensions, Reason.WRONG_SHAPE),
    **{f"dtype {dtype}": Kind(partial(another_dtype, dtype), Reason.WRONG_DTYPE) for dtype in _DTYPES},
    "the same bytes as integers": Kind(same_bytes_as_integers, Reason.WRONG_DTYPE),
    "one NaN": Kind(partial(one_value, float("nan")), Reason.NOT_FINITE),
    "one NaN of any bits": Kind(nan_of_any_bits, Reason.NOT_FINITE),
    "one infinity": Kind(partial(one_value, float("inf")), Reason.NOT_FINITE),
    "one minus infinity": Kind(partial(one_value, -float("inf")), Reason.NOT_FINITE),
    "all NaN": Kind(partial(all_values, float("nan")), Reason.NOT_FINITE),
    "all infinite": Kind(partial(all_values, float("inf")), Reason.NOT_FINITE),
    "a huge norm": Kind(huge_norm, Reason.NORM_EXCEEDED),
    "the largest floats": Kind(partial(all_values, 3.4028234e38), Reason.NORM_EXCEEDED),
    "a norm above the bound": Kind(norm_above_the_bound, Reason.NORM_EXCEEDED),
}
"""Kinds for an update as for a step delta."""

UPDATES: dict[str, Kind] = {**EITHER, "an infinite log figure": Kind(infinite_log_figure, Reason.MALFORMED)}

DELTAS: dict[str, Kind] = {
    **EITHER,
    "an unheard-of branch": Kind(unheard_of_branch, Reason.MALFORMED),
    "a bad step": Kind(bad_step, Reason.BAD_COUNT),
}

_SPOILT_LAST_STEPS = (
    "not bytes",
    "a bytearray",
    "empty",
    "random bytes",
    "truncated",
    "trailing garbage",
    "bit flip in the header",
    "another kind",
    "a shape without strides",
    "an extra key",
    "a renamed key",
    "another shape",
    "no value",
    "many thousand dimensions",
    "dtype float64",
    "dtype bfloat16",
    "one NaN",
    "a huge norm",
)
LAST_STEPS: dict[str, Callable[[Delivery, Random], tuple[bytes, Any]]] = {
    "missing": no_last_step,
    "the update itself": update_as_last_step,
    "the shadow's": last_step_of_the_shadow,
    "another branch": partial(_last, unheard_of_branch),
    "one bit of it": one_bit_of_the_last_step,
    "the update one ulp away": update_moved_by_one_ulp,
    "the other zero": zero_with_the_other_sign,
    "the opposite": opposite_last_step,
    "without tensors": last_step_without_tensors,
    **{name: partial(_last, EITHER[name].make) for name in _SPOILT_LAST_STEPS},
}
"""Pairs refused for `UNTIED_EVIDENCE` at levels that weigh step deltas."""

LEGAL: dict[str, Callable[[Delivery, Random], tuple[bytes, bytes]]] = {
    "unmoved": partial(_moved, unmoved),
    "denormal": partial(_moved, denormal),
    "minus zero": partial(_moved, minus_zero),
    "a flipped bit in a mantissa": partial(_moved, flipped_mantissa),
    "a norm just below the bound": partial(_moved, norm_just_below_the_bound),
    "one sample": partial(_moved, one_sample),
    "odd log figures": partial(_moved, odd_log_figures),
    "a padded header": partial(_rewritten, padded_header),
    "a header in another order": partial(_rewritten, header_in_another_order),
    "roomy fields": partial(_rewritten, roomy_fields),
}
