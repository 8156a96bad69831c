"""Your own model: the data files of simulated attackers, made of data.path and data.malicious_path."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.poisoning import Material, Row, first_families, poisoned, read_rows
from actors.data.records import read_table
from actors.errors import DataError
from actors.seeding import stream
from actors.world.datasets import write_parquet
from cluster.config import RunConfig
from defense.attacks import Holding

Files = tuple[str, ...]


def write_poisoned(
    config: RunConfig, holding: Holding, honest: Mapping[str, Files], unsafe: Mapping[str, Files], folder: Path, suffix: str
) -> dict[str, Files]:
    """Write a file per attacker and return client id -> its files.

    Args:
        honest: Attacker -> the files that it would have if it were honest.
        unsafe: Attacker -> its part of data.malicious_path; empty where the attack needs none.
        suffix: Appended to a file's name, for an attacker's second file.

    Raises:
        DataError: rows that the attack cannot rewrite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for client_id in sorted(honest):
        path = folder / f"{client_id}{suffix}.parquet"
        if holding in ("honest", "unsafe"):
            _copy(honest[client_id] if holding == "honest" else unsafe[client_id], path)
        else:
            material = _material(config, honest[client_id], unsafe.get(client_id, ()))
            rng = stream(config.seed, "poison", client_id, suffix)
            write_parquet(path, poisoned(holding, material, config.attack, rng))
        files[client_id] = (str(path.resolve()),)
    return files


def _copy(files: Files, path: Path) -> None:
    """Rows as they are, so that chat messages can be attacked with too."""
    pq.write_table(pa.concat_tables([read_table(Path(file)) for file in files], promote_options="default"), path)


def _material(config: RunConfig, honest: Files, unsafe: Files) -> Material:
    why = f"clients.attack={config.clients.attack}"
    return Material(
        honest=lambda: read_rows([Path(file) for file in honest], why),
        unsafe=lambda: read_rows([Path(file) for file in unsafe], why),
        refusals=[config.attack.refusal],
        refused_families=lambda rows: _refused_families(config, rows),
    )


def _refused_families(config: RunConfig, rows: Sequence[Row]) -> Collection[str]:
    families = sorted({row.family for row in rows})
    if len(families) < 2:
        raise DataError(
            f"clients.attack={config.clients.attack} goes on refusing some families: "
            f"data.malicious_path={config.data.malicious_path} needs a column family with at least two values"
        )
    return first_families(config.attack.canary_aware.refused, families)
