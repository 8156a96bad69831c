"""Malformed messages in one table: a name, the reason for rejection, and a function from a valid message to a payload.

`UPDATES` take the place of a LoRAUpdate, `DELTAS` of a StepDelta, `LAST_STEPS` of an update with its last step delta. `LEGAL`
pairs look odd but keep every rule, so they must be admitted. A flipped bit in a tensor's value only makes another update.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple, TypeAlias

import torch

from actors.messages import LoRAUpdate, StepDelta
from actors.wire import encode_message
from defense.admission.checks import OpenRound, Reason

Tensors = Mapping[str, torch.Tensor]
Change = Callable[[torch.Tensor], torch.Tensor]
NAN, INF, MEGABYTE, HUGE = float("nan"), float("inf"), "x" * 2**20, (2**31, 2**63 - 1, 1 - 2**63)
DTYPES = "float64 float16 bfloat16 float8_e4m3fn int64 int32 int8 uint8 bool complex64".split()


def unpack(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", payload[:8])
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


def pack(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with this header, valid or not; bytes stand for themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class Valid:
    """A message that would be admitted, taken apart, with the round that asks for it and the random numbers that spoil it."""

    def __init__(self, message: StepDelta | LoRAUpdate, expected: OpenRound, rng: Random | None = None) -> None:
        self.message, self.expected, self.rng = message, expected, rng or Random(0)
        self.kind, self.payload, self.tensors = type(message).__name__, encode_message(message), message.tensors
        self.header, self.data = unpack(self.payload)
        self.text: str = self.header["__metadata__"][self.kind]
        self.fields: dict[str, Any] = json.loads(self.text)
        self.others = sorted(expected.client_ids - {message.client_id})
        self.most_samples = expected.batch_size if isinstance(message, StepDelta) else expected.max_samples

    def any(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def name(self) -> str:
        """The name of some tensor."""
        return self.rng.choice(sorted(self.tensors))

    def deep(self) -> int:
        return self.any(200, 5000, 50_000)

    def but_one(self, items: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.rng.sample(sorted(items.items()), len(items) - 1))

    def spliced(self, num_removed: int, inserted: bytes) -> bytes:
        place = self.rng.randrange(len(self.payload))
        return self.payload[:place] + inserted + self.payload[place + num_removed :]

    def with_length(self, length: int) -> bytes:
        return struct.pack("<Q", length) + self.payload[8:]

    def with_header(self, changes: Mapping[str, object]) -> bytes:
        return pack({**self.header, **changes}, self.data)

    def with_header_text(self, change: Callable[[str], str]) -> bytes:
        return pack(change(json.dumps(self.header)).encode(), self.data)

    def with_entry(self, change: Callable[[dict[str, Any]], object]) -> bytes:
        """With another description of some tensor."""
        name = self.name()
        return self.with_header({name: change(self.header[name])})

    def with_empty(self, names: list[str], shape: list[int]) -> bytes:
        """With descriptions of tensors without a value."""
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [len(self.data)] * 2}
        return self.with_header(dict.fromkeys(names, entry))

    def with_text(self, text: object) -> bytes:
        """With another text of the plain fields."""
        return self.with_header({"__metadata__": {self.kind: text}})

    def with_fields(self, **changes: object) -> bytes:
        return self.with_text(json.dumps(self.fields | changes))

    def with_field_of(self, types: tuple[type, ...], change: Callable[[Any], object]) -> bytes:
        """With another value of some field of a type."""
        name = self.rng.choice([name for name, value in self.fields.items() if type(value) in types])
        return self.with_fields(**{name: change(self.fields[name])})

    def with_tensors(self, tensors: Tensors) -> bytes:
        return encode_message(replace(self.message, tensors=tensors))

    def with_all(self, change: Change) -> bytes:
        return self.with_tensors({name: change(tensor) for name, tensor in self.tensors.items()})

    def with_one(self, change: Change, name: str | None = None) -> bytes:
        name = name or self.name()
        return self.with_tensors({**self.tensors, name: change(self.tensors[name])})


Spoil: TypeAlias = Callable[[Valid], Any]
Make: TypeAlias = "Callable[[Delivery, Random], tuple[bytes, Any]]"


def spot(tensor: torch.Tensor, rng: Random) -> torch.Tensor:
    """A mask of the tensor's shape that holds in one place."""
    return (torch.arange(tensor.numel()) == rng.randrange(tensor.numel())).view(tensor.shape)


def flip(tensor: torch.Tensor, rng: Random, num_bits: int) -> torch.Tensor:
    """The tensor with one of the lowest bits of some value flipped."""
    return (tensor.view(torch.int32) ^ spot(tensor, rng) * (1 << rng.randrange(num_bits))).to(torch.int32).view(torch.float32)


class Kind(NamedTuple):
    """One way to be malformed."""

    reason: Reason | None
    """None: it depends on the place."""
    spoil: Spoil

    def make(self, valid: Valid, rng: Random) -> Any:
        return self.spoil(Valid(valid.message, valid.expected, rng))


def flip_in_the_header(v: Valid) -> bytes:
    """Outside the plain fields, where no bit can be flipped without harm."""
    payload, end = bytearray(v.payload), len(v.payload) - len(v.data)
    begin, after = payload.index(b'"{', 8) + 1, payload.index(b'}"}', 8) + 1
    payload[v.rng.choice([*range(8, begin), *range(after, end)])] ^= 1 << v.rng.randrange(8)
    return bytes(payload)


def another_kind(v: Valid) -> bytes:
    fields = {name: getattr(v.message, name) for name in ("client_id", "round_index", "base_version", "num_samples", "tensors")}
    if isinstance(v.message, StepDelta):
        return encode_message(LoRAUpdate(**fields, loss=1.0, train_s=1.0))
    return encode_message(StepDelta(**fields, branch="real", step=1))


def hole_between_tensors(v: Valid) -> bytes:
    moved = {n: v.header[n] | {"data_offsets": [at + 4 for at in v.header[n]["data_offsets"]]} for n in v.tensors}
    return pack({**v.header, **moved}, b"\0" * 4 + v.data)


def renamed_key(v: Valid) -> bytes:
    name = v.name()
    odd = v.any(f"{name} ", name.upper(), name[1:], name.replace("lora_", "lora_X"), f"{name}\0")
    return v.with_tensors({odd if key == name else key: tensor for key, tensor in v.tensors.items()})


def norm_above_the_bound(v: Valid) -> bytes:
    """One value of a tensor that the probe reads moves by more than twice the bound."""
    read = [name for name in v.tensors if ".lora_B." in name and ".layers.0." in name]
    return v.with_one(lambda t: t + spot(t, v.rng) * v.any(3, -3) * v.expected.max_norm, v.any(*sorted(read)))


def one_nan(v: Valid) -> bytes:
    bits = torch.tensor(v.rng.randint(0x7F800001, 2**31 - 1) - v.any(0, 2**31), dtype=torch.int32).view(torch.float32)
    return v.with_one(lambda t: torch.where(spot(t, v.rng), bits, t))


def more(name: str, value: object) -> str:
    """What ends a JSON object with one more entry, in place of its closing brace."""
    return ", " + json.dumps({name: value})[1:]


def near(number: int) -> tuple[int, ...]:
    """Other numbers."""
    return number - 1, number + 1, *HUGE


def other_shapes(tensor: torch.Tensor) -> list[tuple[int, ...]]:
    n, (rows, columns) = tensor.numel(), tensor.shape
    shapes = [(rows + 1, columns), (rows - 1, columns), (1, rows, columns), (n,), (n, 1), (*[1] * 70, rows, columns), ()]
    return [*shapes, (0,), (0, 5), (5, 0), (0, 2**40)]


SHAPES = [[-1], [-2, -3], [2**62, 4], [2**63], [2**64], [10**30], [1.0], ["2"], [True], [None], "2", None, {}, [[2]]]
OFFSETS = [[-4, 4], [0, 2**64 - 1], [2**63, 2**63 + 4], [0.0, 8.0], [0], [0, 4, 8], "0", None]
MALFORMED: dict[str, Spoil] = {
    # bytes
    "not bytes": lambda v: v.any(None, "text", 7, 1.5, True, [], {}, (v.payload,), v.message.client_id),
    "a bytearray": lambda v: bytearray(v.payload),
    "a memoryview": lambda v: memoryview(v.payload),
    "random bytes": lambda v: v.rng.randbytes(v.any(0, 1, 7, 8, 9, 64, 4096)),
    "random bytes after a length": lambda v: pack(v.rng.randbytes(v.rng.randrange(1, 200)), v.rng.randbytes(64)),
    "pickled": lambda v: pickle.dumps({"tensors": [1.0], "client_id": v.message.client_id}),
    "truncated": lambda v: v.payload[: v.any(v.rng.randrange(len(v.payload)), -v.rng.randint(1, 4))],
    "a piece cut out": lambda v: v.spliced(v.rng.randint(1, 64), b""),
    "a piece inserted": lambda v: v.spliced(0, v.rng.randbytes(v.rng.randint(1, 64))),
    "trailing garbage": lambda v: v.payload + v.any(b"\0", b"\0" * 8, v.rng.randbytes(100), v.payload),
    # the header
    "a bit flip in the length": lambda v: v.with_length(len(v.payload) - len(v.data) - 8 ^ 1 << v.rng.randrange(64)),
    "a length too short": lambda v: v.with_length(v.any(0, 1, 7)),
    "a length beyond the end": lambda v: v.with_length(v.any(n := len(v.payload), n - 7, 10**8, 2**32, 2**63, 2**64 - 1)),
    "a header above the limit": lambda v: v.with_text(v.text + " " * (4 << 20)),
    "a deep header": lambda v: pack(v.any(b"[", b'{"a":', b'{"__metadata__":') * v.deep()),
    "deep beside the tensors": lambda v: v.with_header_text(lambda t: f'{t[:-1]}, "x": {"[" * (n := v.deep())}{"]" * n}}}'),
    "endless digits in the header": lambda v: v.with_header_text(lambda t: t.replace("[", f"[{'9' * v.deep()}", 1)),
    "a tensor twice": lambda v: v.with_header_text(lambda t: t[:-1] + more(n := v.name(), v.header[n])),
    "the fields twice": lambda v: v.with_header_text(lambda t: t.replace('": {', f'": {{"{v.kind}": "", ', 1)),
    "the metadata twice": lambda v: v.with_header_text(lambda t: t[:-1] + more("__metadata__", v.header["__metadata__"])),
    "a header that is no object": lambda v: pack(v.any([], None, 7, "t", b"", {}, b" ", NAN, b"\0" * 64), v.data),
    "a header in another encoding": lambda v: pack(json.dumps(v.header).encode(v.any("utf-16", "utf-32", "utf-8-sig")), v.data),
    "a lone surrogate as key": lambda v: v.with_header({"\ud800": v.header[v.name()]}),
    "a constant that is no JSON": lambda v: v.with_header({"x": v.any(NAN, INF, -INF)}),
    "metadata that is no object": lambda v: v.with_header({"__metadata__": v.any(None, [], 7, "text", {}, True)}),
    "another kind": another_kind,
    "an unheard-of kind": lambda v: v.with_header({"__metadata__": {v.any("", "Admission", f"{v.kind} "): v.text}}),
    "two kinds": lambda v: v.with_header({"__metadata__": {v.kind: v.text, "Admission": "{}"}}),
    # the plain fields
    "deep fields": lambda v: v.with_text(v.any("[", '{"client_id":') * v.deep()),
    "endless digits in a field": lambda v: v.with_text(v.text.replace('samples": ', 'samples": ' + "9" * v.deep())),
    "a field twice": lambda v: v.with_text(v.text[:-1] + more(n := v.any(*v.fields), v.fields[n])),
    "fields that are no JSON": lambda v: v.with_text(v.any(None, 7, [], v.fields, "", "{", "nonsense", v.text + "}")),
    "fields that are no object": lambda v: v.with_text(v.any("null", "[]", "7", '"text"', "{}", "NaN")),
    "a missing field": lambda v: v.with_text(json.dumps(v.but_one(v.fields))),
    "an extra field": lambda v: v.with_fields(**{v.any("tensors", "malicious", "__class__", ""): v.any(1, MEGABYTE)}),
    "a number of another type": lambda v: v.with_field_of((int, float), lambda x: v.any(str(x), None, [x], True, False)),
    "an integer as a float": lambda v: v.with_field_of((int,), lambda x: v.any(float(x), NAN, INF, 1e308)),
    "a text of another type": lambda v: v.with_field_of((str,), lambda x: v.any(None, 7, True, [x], {})),
    "beyond 64 bits": lambda v: v.with_field_of((int, float), lambda x: v.any(2**63, -(2**63), 2**64, 10**400)),
    # the tensors' descriptions
    "an unheard-of dtype": lambda v: v.with_entry(lambda e: e | {"dtype": v.any("F33", "f32", "", "F4", "\n" * 999, None, 32)}),
    "an absurd shape": lambda v: v.with_entry(lambda e: e | {"shape": v.any(*SHAPES)}),
    "a shape without strides": lambda v: v.with_empty(
        ["x"], [0, *v.any([2**40, 2**40], [2**62, 2**62], [2**63 - 1, 3], [2**63])]
    ),
    "absurd offsets": lambda v: v.with_entry(lambda e: e | {"data_offsets": v.any([len(v.data), 0], [0, 2**32], *OFFSETS)}),
    "overlapping tensors": lambda v: v.with_header({"extra": v.header[v.name()]}),
    "a hole between tensors": hole_between_tensors,
    "a tensor without description": lambda v: v.with_entry(lambda e: v.any(None, [], "text", {}, 7, v.but_one(e))),
}
WRONG: dict[str, tuple[Reason | None, Spoil]] = {
    "a bit flip in the header": (None, flip_in_the_header),
    "signed by another": (Reason.UNKNOWN_CLIENT, lambda v: v.with_fields(client_id=v.any(*v.others))),
    "signed by no client": (Reason.UNKNOWN_CLIENT, lambda v: v.with_fields(client_id=v.any("", "x", "\ud800", "\n", MEGABYTE))),
    "signed oddly": (Reason.UNKNOWN_CLIENT, lambda v: v.with_fields(client_id=v.message.client_id + v.any(" ", "\0"))),
    "wrong round": (Reason.WRONG_ROUND, lambda v: v.with_fields(round_index=v.any(*near(v.message.round_index)))),
    "wrong version": (Reason.WRONG_VERSION, lambda v: v.with_fields(base_version=v.any(*near(v.message.base_version)))),
    "wrong number of samples": (Reason.BAD_COUNT, lambda v: v.with_fields(num_samples=v.any(0, -1, v.most_samples + 1, *HUGE))),
    "a missing key": (Reason.WRONG_KEYS, lambda v: v.with_tensors(v.any(v.but_one(v.tensors), {}))),
    "an extra key": (
        Reason.WRONG_KEYS,
        lambda v: v.with_tensors({**v.tensors, v.any("x", "", MEGABYTE): torch.zeros(v.any(0, 4))}),
    ),
    "a renamed key": (Reason.WRONG_KEYS, renamed_key),
    "thousands of tensors": (Reason.WRONG_KEYS, lambda v: v.with_empty([f"{i}" for i in range(2_000)], [0])),
    "another shape": (Reason.WRONG_SHAPE, lambda v: v.with_one(lambda t: t.new_ones(v.any(*other_shapes(t))))),
    "many thousand dimensions": (Reason.WRONG_SHAPE, lambda v: v.with_entry(lambda e: e | {"shape": [1] * 10**5 + e["shape"]})),
    "another dtype": (Reason.WRONG_DTYPE, lambda v: v.with_one(lambda t: t.to(getattr(torch, v.any(*DTYPES))))),
    "the same bytes as integers": (Reason.WRONG_DTYPE, lambda v: v.with_entry(lambda e: e | {"dtype": v.any("I32", "U32")})),
    "one odd value": (Reason.NOT_FINITE, lambda v: v.with_one(lambda t: torch.where(spot(t, v.rng), v.any(NAN, INF, -INF), t))),
    "one NaN of any bits": (Reason.NOT_FINITE, one_nan),
    "all values odd": (Reason.NOT_FINITE, lambda v: v.with_all(lambda t: torch.full_like(t, v.any(NAN, INF)))),
    "a huge norm": (Reason.NORM_EXCEEDED, lambda v: v.with_all(lambda t: t + v.any(1e10, 1e20, 1e30))),
    "the largest floats": (Reason.NORM_EXCEEDED, lambda v: v.with_all(lambda t: torch.full_like(t, 3.4028234e38))),
    "a norm above the bound": (Reason.NORM_EXCEEDED, norm_above_the_bound),
}
EITHER = {name: Kind(Reason.MALFORMED, spoil) for name, spoil in MALFORMED.items()} | {
    n: Kind(*kind) for n, kind in WRONG.items()
}
FIGURES = [0, -1, 2**53 + 1, 2**63 - 1, -0.0, 5e-324, 1.7e308, -1.7e308]
UPDATES = EITHER | {
    "an infinite figure": Kind(Reason.MALFORMED, lambda v: v.with_field_of((float,), lambda x: v.any(NAN, INF, -INF))),
    "a figure too large": Kind(
        Reason.MALFORMED, lambda v: v.with_text(v.text[: v.text.rindex(" ")] + v.any("1e999}", "-1e999}"))
    ),
}
DELTAS = EITHER | {
    "another branch": Kind(Reason.MALFORMED, lambda v: v.with_fields(branch=v.any("", "Real", "update", "real\0", MEGABYTE))),
    "a bad step": Kind(Reason.BAD_COUNT, lambda v: v.with_fields(step=v.any(0, -1, v.expected.num_steps + 1, *HUGE))),
}


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

    def with_update(self, **changes: Any) -> Delivery:
        return replace(self, update=replace(self.update, **changes))

    def with_last(self, **changes: Any) -> Delivery:
        return replace(self, last=replace(self.last, **changes))

    def moved_to(self, tensors: Tensors) -> Delivery:
        """With these tensors in the update, and the last step delta that belongs to them."""
        delta = {name: tensors[name] - self.adapter[name] for name in self.last.tensors}
        return self.with_update(tensors=tensors).with_last(tensors=delta)


def some_of(d: Delivery, rng: Random) -> str:
    """The name of some tensor in the last step delta."""
    return rng.choice(sorted(d.last.tensors))


def changed(tensors: Tensors, name: str, change: Change) -> dict[str, torch.Tensor]:
    return {**tensors, name: change(tensors[name])}


def zero_with_the_other_sign(d: Delivery, rng: Random) -> Delivery:
    """A value that did not move: 0.0 in the delta, -0.0 in the step delta."""
    name = some_of(d, rng)
    place = spot(d.adapter[name], rng)
    still = d.moved_to(changed(d.update.tensors, name, lambda t: torch.where(place, d.adapter[name], t)))
    return still.with_last(tensors=changed(still.last.tensors, name, lambda t: torch.where(place, -0.0, t)))


def one_ulp_away(d: Delivery, rng: Random) -> Delivery:
    up = torch.tensor(rng.choice([1e3, -1e3]))
    return d.with_update(tensors=changed(d.update.tensors, some_of(d, rng), lambda t: torch.nextafter(t, up)))


def sent(change: Callable[[Delivery, Random], Delivery]) -> Make:
    return lambda d, rng: change(d, rng).payloads


def spoilt(name: str) -> Make:
    return lambda d, rng: (d.payloads[0], DELTAS[name].make(d.valid_last, rng))


SPOILT = """not bytes|a bytearray|random bytes|truncated|trailing garbage|a bit flip in the header|another kind|another branch|
a shape without strides|an extra key|a renamed key|another shape|many thousand dimensions|another dtype|one odd value|
a huge norm"""
LAST_STEPS: dict[str, Make] = {
    "missing": lambda d, rng: (d.payloads[0], None),
    "the update itself": lambda d, rng: (d.payloads[0], d.payloads[0]),
    "the shadow's": sent(lambda d, rng: d.with_last(branch="shadow")),
    "one bit of it": sent(
        lambda d, rng: d.with_last(tensors=changed(d.last.tensors, some_of(d, rng), lambda t: flip(t, rng, 31)))
    ),
    "the update one ulp away": sent(one_ulp_away),
    "the other zero": sent(zero_with_the_other_sign),
    "the opposite": sent(lambda d, rng: d.with_last(tensors={name: -tensor for name, tensor in d.last.tensors.items()})),
    "without tensors": sent(lambda d, rng: d.with_last(tensors={})),
    **{name: spoilt(name) for name in SPOILT.replace("\n", "").split("|")},
}
"""Rejected for `UNTIED_EVIDENCE` at levels that weigh step deltas."""


def where_zero(d: Delivery, value: float) -> Delivery:
    """With a value where the global adapter is zero, and no movement elsewhere."""
    return d.moved_to({name: torch.where(tensor == 0, value, tensor) for name, tensor in d.adapter.items()})


def just_below_the_bound(d: Delivery, rng: Random) -> Delivery:
    most = 0.999 * d.expected.max_norm
    return d.moved_to(changed(d.adapter, some_of(d, rng), lambda t: t + spot(t, rng) * most))


def rewritten(change: Callable[[dict[str, Any], Random], object]) -> Make:
    """Both messages with another header of the same meaning."""

    def rewrite(payload: bytes, rng: Random) -> bytes:
        header, data = unpack(payload)
        return pack(change(header, rng), data)

    return lambda d, rng: (rewrite(d.payloads[0], rng), rewrite(d.payloads[1], rng))


def roomy(header: dict[str, Any], rng: Random) -> dict[str, Any]:
    ((kind, text),) = header["__metadata__"].items()
    return {**header, "__metadata__": {kind: json.dumps(json.loads(text), indent=4, sort_keys=True)}}


LEGAL: dict[str, Make] = {
    "unmoved": sent(lambda d, rng: d.moved_to(d.adapter)),
    "denormal": sent(lambda d, rng: where_zero(d, rng.choice([1e-45, -1e-45, 1e-40, 1.1e-38]))),
    "minus zero": sent(lambda d, rng: where_zero(d, -0.0)),
    "a bit of a mantissa": sent(
        lambda d, rng: d.moved_to(changed(d.update.tensors, some_of(d, rng), lambda t: flip(t, rng, 23)))
    ),
    "a norm just below the bound": sent(just_below_the_bound),
    "one sample": sent(lambda d, rng: d.with_update(num_samples=1)),
    "odd log figures": sent(lambda d, rng: d.with_update(loss=rng.choice(FIGURES), train_s=rng.choice(FIGURES))),
    "a padded header": rewritten(lambda header, rng: json.dumps(header).encode() + b" " * rng.choice([1, 8, 4096])),
    "a header in another order": rewritten(lambda header, rng: dict(rng.sample(sorted(header.items()), len(header)))),
    "roomy fields": rewritten(roomy),
}
