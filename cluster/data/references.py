"""Reference clients: whose data the server owns and labels, from the embedded world or from the operator's own files."""

from __future__ import annotations

from pathlib import Path

from actors.data.references import Reference, split_references
from actors.world.generator import World
from actors.world.references import write_references
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError

LIVE_ROLE = "live_reference+calibration"
"""Families of the embedded world that a refresh during a run trains on; neither federation nor probe is made of them."""


def prepare_references(config: RunConfig, folder: Path, *, role: str, clients: int) -> list[Reference]:
    """Write the data of `clients` benign and as many malicious reference clients into `folder`.

    Args:
        role: Whose families of the embedded world they train on; not read for your own files.

    Raises:
        ConfigError, DataError: no data is named, it cannot be used, or the role has no families.
    """
    if config.is_embedded:
        try:
            samples = config.training.steps * config.training.batch_size
            return write_references(World(config.world.seed), folder, role, clients, samples)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    references = []
    for key, malicious in (("benign_path", False), ("malicious_path", True)):
        path = getattr(config.collect, key)
        if path is None:
            raise ConfigError(
                f"collect.{key} is not set: name a Parquet or JSONL file, or a folder of them, with "
                f"{'unsafe' if malicious else 'harmless'} instruction data for the probe's reference clients"
            )
        references += split_references(Path(path), malicious, clients, folder, config.seed)
    return references
