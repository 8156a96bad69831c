"""What two configurations differ in, and hashes that equal ones share. No torch and no Ray here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.config.schema import RunConfig

WITHOUT_EFFECT = ("name", "cluster.", "checkpoint.keep", "checkpoint.every")
"""Keys, or sections with a dot, that change no result: a cell is gone on with under others."""
_HASH_DIGITS = 16


def differences(stored: RunConfig, asked: RunConfig) -> list[str]:
    """`rounds=10, asked is 12` for every key that differs and matters."""
    old, new = dict(_flat(stored)), dict(_flat(asked))
    return [
        f"{key}={old.get(key)}, asked is {new.get(key)}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key) and not _is_among(key, WITHOUT_EFFECT)
    ]


def config_hash(config: RunConfig, ignored: Sequence[str] = ("seed",), instead: Mapping[str, Any] | None = None) -> str:
    """16 hexadecimal digits that configurations share when nothing that changes a result tells them apart.

    Args:
        ignored: Further keys that may differ.
        instead: Key -> a value that counts in place of the configuration's own.
    """
    values = {**dict(_flat(config)), **(instead or {})}
    left_out = (*WITHOUT_EFFECT, "checkpoint.path", *ignored)
    matters = {key: value for key, value in values.items() if not _is_among(key, left_out)}
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()[:_HASH_DIGITS]


def _flat(config: RunConfig) -> Iterator[tuple[str, Any]]:
    yield from _leaves(config.model_dump(mode="json"), "")


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_among(key: str, keys: Sequence[str]) -> bool:
    return any(key.startswith(other) if other.endswith(".") else key == other for other in keys)
