"""Several federations side by side: a small matrix of defenses, malicious counts and seeds, with one closing table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from cluster.closing_table import group_table, outcome_table
from cluster.errors import ConfigError
from cluster.federation import Federation, RunResult
from cluster.loading import load_config
from cluster.pictures import draw_comparison
from cluster.progress import Progress
from cluster.session import ray_session

AXES = {"defenses": "defense.level", "malicious": "clients.malicious", "seeds": "seed"}
"""Axis on the command line -> the key it varies."""
_LABELS = {"defenses": "{}", "malicious": "{} malicious", "seeds": "seed {}"}


def split_axes(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Take the axes out of the arguments: ({"defenses": ["none", "shadow"]}, the rest)."""
    axes = {}
    for argument in arguments:
        name, _, values = argument.partition("=")
        if name in AXES:
            axes[name] = values.split(",")
    if not axes:
        raise ConfigError(f"compare needs an axis: {', '.join(f'{name}=a,b' for name in AXES)}")
    return axes, [argument for argument in arguments if argument.partition("=")[0] not in AXES]


def run_comparison(
    config_path: Path | None,
    overrides: Sequence[str],
    axes: Mapping[str, Sequence[str]],
    folder: Path,
    console: Console,
    progress: Callable[[Console, str], AbstractContextManager[Progress]],
) -> list[tuple[str, RunResult]]:
    """Run every cell in one Ray session, print the closing table, and write comparison.parquet and comparison.png."""
    cells = []
    for values in itertools.product(*axes.values()):
        keys = [f"{AXES[axis]}={value}" for axis, value in zip(axes, values, strict=True)]
        label = ", ".join(_LABELS[axis].format(value) for axis, value in zip(axes, values, strict=True))
        cells.append((label, load_config(config_path, [*overrides, *keys])))
    results = []
    with ray_session(cells[0][1].cluster.address):
        for label, config in cells:
            name = label.replace(", ", "_").replace(" ", "-")
            with progress(console, f"{label}: ") as shown:
                results.append((label, Federation(config, folder / name, shown).run()))
    for label, result in results:
        console.print(f"{label}:")
        console.print(group_table(result))
    console.print(outcome_table(results))
    pq.write_table(pa.Table.from_pylist([_flat(label, result) for label, result in results]), folder / "comparison.parquet")
    draw_comparison(folder, {label: _safety_curve(result) for label, result in results})
    console.print(f"Results: {folder} (a directory per run, comparison.parquet, comparison.png)", soft_wrap=True)
    return results


def _flat(label: str, result: RunResult) -> dict:
    return {"run": label, **{key: value for key, value in result.summary.items() if not isinstance(value, dict)}}


def _safety_curve(result: RunResult) -> list[tuple[int, float]]:
    rows = result.evaluation.to_pylist()
    return [(row["rounds_done"], row["value"]) for row in rows if row["measure"] == "rule_score"]
