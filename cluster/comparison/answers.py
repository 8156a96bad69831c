"""What the final adapter of a cell made of every prompt, so that cells are compared prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

Answers = Mapping[str, tuple[np.ndarray, ...]]
"""Measure -> an array (prompts,) of 0 and 1 for each stratum: the benign families for `utility`, one for the others."""


@cache
def read_answers(folder: Path) -> Answers:
    """Those of a finished run's last evaluation; empty where they were not kept."""
    path = folder / "evaluation.parquet"
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    last = max((row["rounds_done"] for row in rows), default=0)
    found: dict[str, list[np.ndarray]] = {}
    for row in rows:
        if row["rounds_done"] == last and row.get("outcomes"):
            digits = np.frombuffer(row["outcomes"].encode("ascii"), dtype=np.uint8) - ord("0")
            found.setdefault(row["measure"], []).append(digits)
    return {measure: tuple(strata) for measure, strata in found.items()}
