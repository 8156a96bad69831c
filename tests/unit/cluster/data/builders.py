"""Builders of data files and of configurations that read them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.config import ModelConfig
from actors.data.files import read_table
from actors.data.records import conversations
from actors.world.store import base_folder, world_folder
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.data.token_files import TokenFiles
from cluster.simulation.simulation import new_client_files, prepare_inputs

MODEL = base_folder(world_folder(0))
"""The shipped model, as somebody's own."""
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
    own = [f"model.path={MODEL}", f"data.path={data}", "clients.malicious=0", "defense.level=none"]
    return load_config(None, [*own, *overrides])


def embedded_config(*overrides: str) -> RunConfig:
    return load_config(None, [*SMALL, *overrides])


def tokens_in(folder: Path, max_length: int = 512) -> TokenFiles:
    """Token files for the shipped model."""
    return TokenFiles(ModelConfig(path=str(MODEL)), max_length, folder)


def begin(config: RunConfig, folder: Path) -> dict[str, tuple[str, ...]]:
    """Client id -> its files, of a run that begins or goes on in the folder."""
    return dict(prepare_inputs(config, folder)[0].files)


def join(config: RunConfig, folder: Path, known: dict, count: int) -> dict[str, tuple[str, ...]]:
    """Client id -> its files, of clients that join the run in the folder."""
    return new_client_files(config, folder, tokens_in(folder / "data" / "tokens"), known, count)


def messages_of(files: tuple[str, ...]) -> list[list[dict]]:
    """What training reads of a client's files, in order."""
    return [messages for file in files for messages in conversations(read_table(Path(file)), Path(file))]


def rows_of(files: tuple[str, ...]) -> list[str]:
    """The first message of each row."""
    return [messages[0]["content"] for messages in messages_of(files)]
