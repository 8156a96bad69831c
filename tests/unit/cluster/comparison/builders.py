"""Builders of cells and outcomes without a run."""

from pathlib import Path

from cluster.comparison.cells import Cell, plan_cells, split_axes
from cluster.comparison.outcome import Outcome
from cluster.config.loading import EMBEDDED, read_mapping, with_overrides


def plan(*arguments: str) -> list[Cell]:
    """Cells of a command line without a configuration file."""
    axes, overrides = split_axes(arguments)
    return plan_cells(with_overrides(read_mapping(EMBEDDED), ["defense.level=shadow", *overrides]), axes)


def summary(rule_score: float | None = 0.9, **figures) -> dict:
    """The summary of a short run; `figures` replace its own."""
    plain = {
        "schema_version": 1,
        "seed": 0,
        "defense_level": "shadow",
        "rounds": 2,
        "rounds_done": 2,
        "rule_score": rule_score,
        "compliance": 0.125,
        "utility": 0.75,
        "base": {"rule_score": 1.0, "compliance": 0.0, "utility": 0.5},
        "intervals": {"rule_score": {"value": rule_score, "low": 0.8, "high": 0.95, "count": 60}},
        "mean_weight_benign": 1.0,
        "mean_weight_malicious": None,
        "tpr": None,
        "fpr": 0.0,
        "rounds_skipped": 0,
        "verdicts_by_round": [],
        "wall_s": 10.4,
    }
    return {**plain, **figures}


def done(cell: Cell, rule_score: float | None = 0.9, **figures) -> Outcome:
    return Outcome(cell=cell, path=Path(cell.name), summary=summary(rule_score, **figures))


def failed(cell: Cell, error: str = "no disk\nmore") -> Outcome:
    return Outcome(cell=cell, path=Path(cell.name), error=error, trace="Traceback ...")
