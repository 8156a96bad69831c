"""Client messages as bytes: one safetensors blob, the plain fields in its header. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError

from actors.errors import WireError
from actors.messages import LoRAUpdate, StepDelta

_Message = TypeVar("_Message", StepDelta, LoRAUpdate)
_MAX_HEADER_BYTES = 4 << 20
_MAX_INT = 2**63 - 1
_CONTROL = "control/"
"""Before a parameter's name: it is of an update's control variate. No parameter's own name has a slash."""
_TENSOR_FIELDS = {"tensors", "control_variate"}
_FIELD_TYPES = {"str": str, "int": int, "float": float, "Branch": str}


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

    The safetensors header holds one entry, from the message's kind to its plain fields as JSON: with several, the
    library would write them in an order of its own.
    """
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name not in _TENSOR_FIELDS}
    header = {type(message).__name__: json.dumps(fields)}
    control = getattr(message, "control_variate", None) or {}
    tensors = {**message.tensors, **{_CONTROL + name: tensor for name, tensor in control.items()}}
    return _save(tensors, header)


def _save(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return safetensors.torch.save({name: tensors[name].contiguous() for name in sorted(tensors)}, metadata=metadata)


def decode_message(payload: bytes, kind: type[_Message]) -> _Message:
    """Decode one client message of the expected kind.

    Raises:
        WireError: not safetensors, another kind, or a field that is missing, unknown or of the wrong type.
    """
    if not isinstance(payload, bytes):
        raise WireError(f"expected bytes, got {type(payload).__name__}")
    metadata = _read_metadata(payload)
    if list(metadata) != [kind.__name__]:
        raise WireError(f"expected a {kind.__name__}, got {list(metadata)!r:.80}")
    fields, tensors = _checked_fields(metadata, kind), decode_tensors(payload)
    if kind is StepDelta:
        return StepDelta(**fields, tensors=tensors)
    control = {name.removeprefix(_CONTROL): tensors.pop(name) for name in list(tensors) if name.startswith(_CONTROL)}
    return LoRAUpdate(**fields, tensors=tensors, control_variate=control or None)


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


def _checked_fields(metadata: dict[str, str], kind: type) -> dict[str, object]:
    try:
        fields = json.loads(metadata[kind.__name__], object_pairs_hook=_unique)
    except (ValueError, TypeError, RecursionError) as error:
        raise WireError(f"the message's fields are not JSON: {error}") from error
    expected = {f.name: _FIELD_TYPES[f.type] for f in dataclasses.fields(kind) if f.name not in _TENSOR_FIELDS}
    if not isinstance(fields, dict) or set(fields) != set(expected):
        raise WireError(f"expected the fields {sorted(expected)}")
    for name, wanted in expected.items():
        value = fields[name]
        if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else wanted):
            raise WireError(f"field {name} should be {wanted.__name__}, got {value!r:.80}")
        if isinstance(value, int) and abs(value) > _MAX_INT:
            raise WireError(f"field {name} does not fit 64 bits")
        if wanted is float:  # a table of floats takes no large integer, and JSON readers take no NaN
            fields[name] = float(value)
            if not math.isfinite(fields[name]):
                raise WireError(f"field {name} is not finite")
    return fields


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. safetensors disallows equal keys; two readers could take different ones."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands in it twice")
    return made
