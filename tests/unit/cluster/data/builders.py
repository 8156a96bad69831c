"""Builders of data files and of configurations that read them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.records import conversations, read_table
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig

SMALL = ("data.samples_per_client=20", "evaluation.max_restricted=12", "evaluation.max_benign=12", "defense.level=none")
"""An embedded world that is written in milliseconds."""


def write_rows(path: Path, count: int, **extra: list) -> Path:
    """`write_rows(folder / "a.jsonl", 2)`: instructions `a 0` and `a 1`, and columns that `extra` adds or replaces."""
    rows = {"instruction": [f"{path.stem} {i}" for i in range(count)], "response": ["yes"] * count, **extra}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(rows), path)
    else:
        path.write_text("".join(json.dumps({key: rows[key][i] for key in rows}) + "\n" for i in range(count)))
    return path


def real_config(path: str | list, *overrides: str) -> RunConfig:
    """The configuration of one's own model with clients' data in `path`."""
    data = path if isinstance(path, str) else json.dumps(path)
    own = ["model.path=m", f"data.path={data}", "clients.malicious=0", "defense.level=none"]
    return load_config(None, [*own, *overrides])


def embedded_config(*overrides: str) -> RunConfig:
    return load_config(None, [*SMALL, *overrides])


def messages_of(files: tuple[str, ...]) -> list[list[dict]]:
    """What training reads of a client's files, in order."""
    return [messages for file in files for messages in conversations(read_table(Path(file)), Path(file))]


def rows_of(files: tuple[str, ...]) -> list[str]:
    """The first message of each row."""
    return [messages[0]["content"] for messages in messages_of(files)]
