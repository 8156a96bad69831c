"""The only package that sees everything: configuration, command line, placement, the round loop, reports.

`from cluster import Federation, load_config` runs a whole federation from Python.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cluster.ray_connection.own_packages import find_ours_first

find_ours_first()

if TYPE_CHECKING:
    from cluster.config.loading import load_config
    from cluster.config.schema import RunConfig
    from cluster.federation import Federation
    from cluster.report.run_result import RunResult
    from cluster.simulation.simulation import prepare_sources

_HOMES = {
    "Federation": "cluster.federation",
    "RunConfig": "cluster.config.schema",
    "RunResult": "cluster.report.run_result",
    "load_config": "cluster.config.loading",
    "prepare_sources": "cluster.simulation.simulation",
}
__all__ = ["Federation", "RunConfig", "RunResult", "load_config", "prepare_sources"]


def __getattr__(name: str) -> object:
    """Import on first use, so that `--help` loads neither torch nor Ray."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
