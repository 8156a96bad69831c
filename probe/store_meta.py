"""`store.json`: what all samples of a store were made with. No torch here: `probe collect` reads it first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from probe.meta import decode_document

SCHEMA_VERSION = 1
META_FILE = "store.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMeta:
    """What all samples of a store were made with."""

    shapes: Mapping[str, tuple[int, ...]]
    """PEFT parameter name -> shape of each tensor that a sample holds."""
    layers: Mapping[str, int]
    """PEFT parameter name -> transformer layer of each of them."""
    model_fingerprint: str
    lora_fingerprint: str
    recipe: Mapping[str, float]
    """Local training of the clients that the samples come from: learning_rate, steps, batch_size, weight_decay ..."""

    def __post_init__(self) -> None:
        """Raise ValueError when shapes and layers are not of the same tensors."""
        odd = sorted(set(self.shapes) ^ set(self.layers))
        if odd:
            raise ValueError(f"shapes and layers must name the same tensors; only one of them has {some_of(odd)}")

    def check_equal(self, other: StoreMeta, folder: Path) -> None:
        """Raise ValueError with the first difference to what the store in `folder` has to be made with."""
        mine, wanted = self._entries(), other._entries()
        for key in mine | wanted:
            one, two = mine.get(key), wanted.get(key)
            if one != two:
                raise ValueError(f"the store {folder} was made with {key} = {one}, not {two}; use another folder")

    def _entries(self) -> dict[str, object]:
        """`model_fingerprint`, `shapes <name>` ... -> value, as JSON shows it."""
        document = json.loads(json.dumps(asdict(self)))
        fields = {name: document.pop(name) for name in ("model_fingerprint", "lora_fingerprint")}
        return fields | {f"{name} {key}": value for name, part in document.items() for key, value in part.items()}


def encode_store_meta(meta: StoreMeta) -> str:
    """The content of `store.json`."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(meta)}, indent=2) + "\n"


def load_store_meta(folder: Path) -> StoreMeta:
    """Read `store.json`; raises ValueError when the folder holds no usable one, with the folder and what is wrong."""
    path = folder / META_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is no sample store, it has no {META_FILE}; collect one with `safe-fedllm probe collect`")
    try:
        return StoreMeta(**decode_document(path.read_bytes(), SCHEMA_VERSION))
    except (ValueError, OSError) as error:
        raise ValueError(f"the store {folder}: {META_FILE} cannot be used: {error}; restore it or collect again") from error


def some_of(names: Sequence[str], shown: int = 3) -> str:
    """`a, b, c and 2 more`."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
