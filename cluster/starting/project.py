"""`safe-fedllm init`: the files of a new federation, from those in `files/`."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template

from cluster.config.loading import EMBEDDED, load_config
from cluster.errors import ConfigError

CONFIG = "federation.yaml"
_FILES = Path(__file__).parent / "files"


def write_project(folder: Path, model: str | None) -> Path:
    """Write the configuration, and the folders of the data; returns the configuration's path.

    Args:
        model: A local directory or a hub name; None: the embedded world's model and data.

    Raises:
        ConfigError: the folder is not empty. OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new or empty directory")
    (folder / "data" / "clients").mkdir(parents=True)
    (folder / "data" / "README.md").write_text((_FILES / "data.md").read_text())
    path = folder / CONFIG
    path.write_text(_embedded() if model is None else _own(folder.resolve() / "data", model))
    load_config(path)
    return path


def _embedded() -> str:
    """The embedded world's own configuration, whose comments say what differs from the paper's."""
    return f"# Runs as it is. For a model of your own: safe-fedllm init DIR --model PATH\n{EMBEDDED.read_text()}"


def _own(data: Path, model: str) -> str:
    return Template((_FILES / "own.yaml").read_text()).substitute(data=json.dumps(str(data))[1:-1], model=json.dumps(model))
