"""The manifest of a checkpoint: what it holds, under a hash of itself. It is valid to the byte or not at all."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, Field, NonNegativeInt, StringConstraints, ValidationError

from cluster.errors import CheckpointError
from probe.names import PLAIN

SCHEMA_VERSION = 3
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, StringConstraints(pattern=f"^{PLAIN.pattern}$")]


class FileEntry(BaseModel, extra="forbid", frozen=True, strict=True):
    """A file of a checkpoint."""

    sha256: _Sha256
    bytes: NonNegativeInt


class Manifest(BaseModel, extra="forbid", frozen=True, strict=True):
    """Fields in the order in which they are written."""

    schema_version: int = SCHEMA_VERSION
    run: str | None
    rounds_done: NonNegativeInt
    epoch: NonNegativeInt
    """Of the lease under which it was written."""
    files: dict[_Name, FileEntry]
    """Plain file name -> what the file must be."""
    sha256: str = Field(default="", max_length=64)
    """Of the manifest with an empty text here."""


def encode_manifest(manifest: Manifest) -> bytes:
    """The content of `manifest.json`, with its hash filled in."""
    bare = _text(manifest.model_copy(update={"sha256": ""}))
    return _text(manifest.model_copy(update={"sha256": digest(bare)}))


def decode_manifest(content: bytes) -> Manifest:
    """The manifest that `encode_manifest` wrote; raises CheckpointError when a single byte of it differs."""
    try:
        plain = json.loads(content)
        version = plain.get("schema_version") if isinstance(plain, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise CheckpointError(f"has schema_version {version}, this release reads {SCHEMA_VERSION}")
        manifest = Manifest.model_validate_json(content)
    except (ValidationError, ValueError, RecursionError) as error:
        raise CheckpointError(f"is damaged: it is no manifest ({str(error).splitlines()[0]:.100})") from error
    if encode_manifest(manifest) != content:
        raise CheckpointError("is damaged: it does not match its own hash")
    return manifest


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _text(manifest: Manifest) -> bytes:
    return json.dumps(manifest.model_dump(mode="json"), indent=2).encode()
