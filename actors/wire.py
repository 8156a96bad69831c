"""Client messages as bytes: one safetensors file each, with the plain fields in its header. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

import safetensors.torch
import torch
from safetensors import SafetensorError

from actors.errors import WireError
from actors.messages import Branch, LoRAUpdate, StepDelta

_Message = TypeVar("_Message", StepDelta, LoRAUpdate)
_MAX_HEADER_BYTES = 4 << 20
_MAX_INT = 2**63 - 1
_CONTROL = "control/"
"""Stands before the names of a control variate's tensors; no parameter's own name has a slash."""
_TENSOR_FIELDS = {"tensors", "control_variate"}
_FIELD_TYPES = {"str": {str}, "Branch": {str}, "int": {int}, "float": {int, float}}
"""Annotation of a message's field -> the types that JSON may give it."""


def encode_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """An adapter state as safetensors bytes; equal states give equal bytes."""
    return _save(tensors)


def decode_tensors(payload: bytes) -> dict[str, torch.Tensor]:
    """Raises WireError when the bytes are not a safetensors file."""
    try:
        return safetensors.torch.load(payload)
    except (SafetensorError, ValueError, KeyError, OverflowError, TypeError, RuntimeError) as error:
        raise WireError(f"not a safetensors message: {error}") from error


def encode_message(message: StepDelta | LoRAUpdate) -> bytes:
    """The message as bytes; equal messages give equal bytes.

    The safetensors header has one entry, from the message's kind to its plain fields as JSON. With several entries, the library
    would choose their order.
    """
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name not in _TENSOR_FIELDS}
    header = {type(message).__name__: json.dumps(fields)}
    control = getattr(message, "control_variate", None) or {}
    tensors = {**message.tensors, **{_CONTROL + name: tensor for name, tensor in control.items()}}
    return _save(tensors, header)


def _save(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return safetensors.torch.save({name: tensors[name].contiguous() for name in sorted(tensors)}, metadata=metadata)


def decode_message(payload: object, kind: type[_Message]) -> _Message:
    """Decode one client message of the expected kind.

    Raises:
        WireError: not safetensors, another kind, or a field that is missing, unknown or of the wrong type.
    """
    if not isinstance(payload, bytes):
        raise WireError(f"expected bytes, got {type(payload).__name__}")
    metadata = _read_metadata(payload)
    if list(metadata) != [kind.__name__]:
        raise WireError(f"expected a {kind.__name__}, got {list(metadata)!r:.80}")
    fields, tensors = _read_fields(metadata[kind.__name__], kind), decode_tensors(payload)
    if kind is LoRAUpdate:
        control = {name.removeprefix(_CONTROL): tensors.pop(name) for name in list(tensors) if name.startswith(_CONTROL)}
        fields["control_variate"] = control or None
    return kind(**fields, tensors=tensors)


def tensor_bytes(payload: bytes) -> int:
    """Bytes of all tensors in a message that could be decoded: what follows its header."""
    (length,) = struct.unpack("<Q", payload[:8])
    return len(payload) - 8 - length


def _read_metadata(payload: bytes) -> dict[str, str]:
    if len(payload) < 8:
        raise WireError(f"message of {len(payload)} bytes is too short for a header")
    (length,) = struct.unpack("<Q", payload[:8])
    if length > min(_MAX_HEADER_BYTES, len(payload) - 8):
        raise WireError(f"header claims {length} bytes of a message of {len(payload)}")
    try:
        header = json.loads(payload[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header is not JSON: {error}") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise WireError("the header has no fields")
    return metadata


def _read_fields(text: str, kind: type) -> dict[str, Any]:
    """The plain fields, each of the type that the message declares."""
    try:
        fields = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"the message's fields are not JSON: {error}") from error
    declared = {f.name: str(f.type) for f in dataclasses.fields(kind) if f.name not in _TENSOR_FIELDS}
    if not isinstance(fields, dict) or set(fields) != set(declared):
        raise WireError(f"expected the fields {sorted(declared)}")
    return {name: _checked(name, fields[name], annotation) for name, annotation in declared.items()}


def _checked(name: str, value: object, annotation: str) -> str | int | float:
    if not isinstance(value, str | int | float) or type(value) not in _FIELD_TYPES[annotation]:
        raise WireError(f"field {name} should be {annotation}, got {value!r:.80}")
    if annotation == "Branch" and value not in get_args(Branch):
        raise WireError(f"field {name} should be one of {get_args(Branch)}, got {value!r:.80}")
    if isinstance(value, int) and abs(value) > _MAX_INT:
        raise WireError(f"field {name} does not fit 64 bits")
    if annotation != "float":
        return value
    if not math.isfinite(number := float(value)):  # JSON readers take no NaN, and a table of floats no large integer
        raise WireError(f"field {name} is not finite")
    return number


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; raises ValueError for equal keys, where two readers could choose different values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands in it twice")
    return made
