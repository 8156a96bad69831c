"""Where built worlds lie: seed 0 is shipped, others are built once into the user's cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

SHIPPED_SEED = 0
_SHIPPED = Path(__file__).parent / "assets"
_MANIFEST = "world.json"


def world_folder(seed: int) -> Path:
    """Where world `seed` lies or will lie: inside the package for the shipped one, else in the user's cache."""
    if seed == SHIPPED_SEED:
        return _SHIPPED / f"seed-{seed}"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "safe-fedllm" / "worlds" / f"seed-{seed}"


def is_built(folder: Path) -> bool:
    """Whether the folder holds a finished world; its manifest is written last."""
    return (folder / _MANIFEST).is_file()


def base_folder(folder: Path) -> Path:
    return folder / "base"


def probe_folder(folder: Path) -> Path:
    """The probe of the paper's levels."""
    return folder / "probe"


def live_probe_folder(folder: Path) -> Path:
    """The probe that level live begins with; it reads every layer."""
    return folder / "live_probe"


def write_manifest(folder: Path, contents: dict) -> None:
    (folder / _MANIFEST).write_text(json.dumps(contents, indent=2) + "\n")


def read_manifest(folder: Path) -> dict:
    return json.loads((folder / _MANIFEST).read_text())
