"""What the server fine-tunes the final adapter on (Ye et al., arXiv 2406.10630): the embedded world's or one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.records import read_checked
from actors.data.references import data_files
from actors.errors import given_in
from actors.seeding import stream
from actors.world.generator import World
from actors.world.realignment import write_realignment
from cluster.config.schema import RunConfig
from cluster.errors import ConfigError
from cluster.state.membership import Files


def prepare_realignment(config: RunConfig, folder: Path) -> Files:
    """Write what the server trains on into `folder`; nothing where it does not realign.

    Raises:
        ConfigError: no data is named. DataError: it cannot be used.
    """
    settings = config.realignment
    if not settings.steps:
        return ()
    if config.is_embedded:
        written = write_realignment(World(config.world.seed), folder, settings.samples, settings.refusal_share)
        return (str(written.resolve()),)
    num_refused = round(settings.refusal_share * settings.samples)
    parts = [
        ("evaluation.canary_path", config.evaluation.canary_path, "restricted prompts with refusals", num_refused),
        ("collect.benign_path", config.collect.benign_path, "harmless instruction data", settings.samples - num_refused),
    ]
    return tuple(_draw_rows(config, folder, *part) for part in parts if part[-1])


def _draw_rows(config: RunConfig, folder: Path, key: str, path: str | None, what: str, count: int) -> str:
    """A file with `count` rows of what the operator named, each as often as any other, give or take one."""
    if path is None:
        raise ConfigError(
            f"realignment.steps={config.realignment.steps} needs {what} that no client has: name a Parquet or JSONL file in "
            f"{key}, or set realignment.steps=0"
        )
    with given_in(key):
        table = pa.concat_tables([read_checked(file) for file in data_files(Path(path))], promote_options="default")
    order = stream(config.seed, "realignment rows", key).permutation(table.num_rows)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"realignment-{key.partition('.')[0]}.parquet"
    pq.write_table(table.take(pa.array(np.resize(order, count))), written)
    return str(written.resolve())
