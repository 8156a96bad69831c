"""The status of a live run as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_CLIENTS_SHOWN = 12


def status_table(status: Mapping[str, Any]) -> Table:
    """A row per fact, for a person."""
    table = Table(title=f"{status['name']}: {status['state']}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in _rows(status).items():
        if text:
            table.add_row(name, text)
    return table


def _rows(status: Mapping[str, Any]) -> dict[str, str]:
    measures = {name: value for name, value in status["measures"].items() if name != "rounds_done" and value is not None}
    figures = ", ".join(f"{name} {value:.3f}" for name, value in measures.items())
    return {
        "round": f"{status['round']} of {status['rounds']}" + (f", last {status['outcome']}" if status["outcome"] else ""),
        "clients": ", ".join(f"{count} {state}" for state, count in sorted(status["counts"].items())),
        "not in the last round": _some([f"{c} {s}" for c, s in status["clients"].items() if s not in ("running", "done")]),
        "weights": _some([f"{client} {weight:.2f}" for client, weight in status["weights"].items()]),
        "probe version": str(status["probe_version"] or ""),
        "measured": f"after {status['measures']['rounds_done']} rounds: {figures}" if measures else "",
        "rates": f"{status['round_s']:.1f} s a round, {status['updates_per_s']:.2f} updates/s" if status["round_s"] else "",
        "waiting orders": ", ".join(f"{verb} {'' if value is None else value}".strip() for verb, value in status["orders"]),
        "directory": status["directory"],
    }


def _some(parts: list[str]) -> str:
    more = f" and {len(parts) - _CLIENTS_SHOWN} more" if len(parts) > _CLIENTS_SHOWN else ""
    return ", ".join(parts[:_CLIENTS_SHOWN]) + more
