"""The clients that a run began with, as they were recorded once all of their files had been encoded.

A run that goes on begins with these again, whatever has become of the files since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.config.schema import RunConfig
from cluster.state.membership import Files

_NAME = "clients.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstClients:
    """Written last: where the record is, all token files of its clients are there too."""

    files: Mapping[str, Files]
    """Client id -> the files that its tokens were made from."""
    begun_with: Sequence[str]
    """The files of data.path that some client had, by their names in it; empty for the embedded world."""
    asked: str
    """Of `asked_for`, when the record was made."""

    def keep(self, folder: Path) -> None:
        """Record the clients in the run's data folder, whole or not at all."""
        part = folder / f"{_NAME}.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        part.replace(folder / _NAME)

    @classmethod
    def kept(cls, folder: Path) -> FirstClients | None:
        """The record of an earlier beginning; None: there is none."""
        path = folder / _NAME
        if not path.is_file():
            return None
        document = json.loads(path.read_text())
        files = {client_id: tuple(paths) for client_id, paths in document["files"].items()}
        return cls(files=files, begun_with=document["begun_with"], asked=document["asked"])


def asked_for(config: RunConfig) -> str:
    """Sixteen hexadecimal digits of the settings on which the clients' tokens depend."""
    sections = config.model_dump(mode="json", include={"seed", "world", "model", "data", "clients", "attack"})
    return hashlib.sha256(json.dumps([sections, config.training.max_length]).encode()).hexdigest()[:16]
