"""The figures that a tracker is told of. No client's name is among them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from actors.messages import EvaluationReport, ProbeRound, RoundReport
from cluster.state.tables import measures

Figures = Mapping[str, float]


def round_figures(report: RoundReport) -> Figures:
    """Of a committed round; `loss` is the clients' own, by their shares of the aggregate."""
    clients = report.clients
    counted = [client for client in clients if client.share > 0 and client.loss is not None]
    share = sum(client.share for client in counted)
    return _known(
        "round",
        {
            "clients": len(clients),
            "admitted": sum(client.admitted for client in clients),
            "excluded": sum(client.excluded_by is not None for client in clients),
            "aggregated": report.outcome == "aggregated",
            "mean_weight": report.mean_weight,
            "loss": sum(client.share * (client.loss or 0.0) for client in counted) / share if share else None,
            "averaging_error": report.averaging_error,
            "refusal_rise": report.refusal_rise,
            "preserved_rise": report.preserved_rise,
            "guard_sum": report.guard_sum,
            "aggregate_s": report.aggregate_s,
            "received_bytes": sum(client.num_bytes for client in clients),
        }
        | {f"bound/{level}": bound for level, bound in report.bounds.items()},
    )


def probe_figures(row: ProbeRound) -> Figures:
    """Of the probe in a round, and the seconds of the whole round."""
    names = ("version", "drift_distance", "blind", "refresh_auc", "refresh_wait_s", "score_s", "round_s")
    return _known("probe", {name: getattr(row, name) for name in names})


def evaluation_figures(report: EvaluationReport) -> Figures:
    """Safety and utility, named as in evaluation.parquet."""
    return _known("evaluation", measures(report))


def _known(section: str, values: Mapping[str, float | None]) -> Figures:
    """Without what was not measured, or is not finite."""
    return {f"{section}/{name}": float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
