"""What crosses between a participant and the gateway, beside the bytes of adapters and messages: plain JSON, checked on reading.

A participant signs the exact bytes of a `Statement`, which names everything that a request is about. The gateway reads nothing
else of a request before the statement is verified.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.messages import TrainTask

PROTOCOL = 1
"""Both sides must have the same."""
STATEMENT, SIGNATURE, MARK = "x-statement", "x-signature", b"safe-fedllm request\n"
"""Headers of a request, and what stands before the signed bytes, so that a signature is good for nothing else."""
MAX_STATEMENT_BYTES = 2048
MAX_REASON = 500
"""Characters of what a participant says about a failure of its own."""
POLL_S = 20.0
"""How long the gateway holds a request for work open: below the 30 to 60 s after which proxies drop a silent connection."""

Route = Literal["/work", "/adapter", "/difference", "/item", "/failure"]
_Id = Annotated[str, Field(max_length=64)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]


class Statement(BaseModel, extra="forbid", frozen=True, strict=True):
    """What a request is about; the part that a participant signs."""

    epoch: _Id
    """Of the gateway's process: a request to an earlier one is good for nothing."""
    client_id: _Id
    route: Route
    nonce: _Count
    """Larger in every request of the client."""
    size: _Count
    """Bytes of the body."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the body."""
    work: _Id = ""
    """Id of the offer that the request belongs to; empty in a request for work."""
    round_index: Annotated[int, Field(ge=-1, lt=2**63)] = -1
    base_version: Annotated[int, Field(ge=-1, lt=2**63)] = -1
    item: _Count = 0
    """Number of a message within the offer, from 0."""
    is_last: bool = False


class Hello(BaseModel, extra="forbid", frozen=True):
    """What anybody may know of a gateway."""

    protocol: int
    epoch: str


class Enrol(BaseModel, extra="forbid", frozen=True, strict=True):
    """The request that uses an invitation; signed like the others, by the key that it names."""

    client_id: _Id
    secret: Annotated[str, Field(max_length=64)]
    public_key: Annotated[str, Field(max_length=64)]


class Settings(BaseModel, extra="forbid", frozen=True):
    """How every client of the run trains."""

    model: ModelConfig
    """Without its path: a participant has its own copy."""
    lora: LoraConfig
    training: TrainingConfig
    model_fingerprint: str
    lora_fingerprint: str


class Offer(BaseModel, extra="forbid", frozen=True):
    """One round's work for one client."""

    work: str
    task: TrainTask
    """Without files."""
    num_delivered: int
    """Messages that the gateway has already: after an interruption the client trains again and sends those that are missing."""
    has_difference: bool
    settings: Settings


def to_header(content: bytes) -> str:
    """Bytes as a header's value."""
    return base64.b64encode(content).decode()


def from_header(value: str) -> bytes | None:
    """The bytes; None: this is no base64."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
