"""summary.json: the outcome of a run in one flat object."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from actors.messages import EvaluationReport, RoundReport
from cluster.config import RunConfig
from cluster.tables import SCHEMA_VERSION


def summarise(
    config: RunConfig,
    reports: Sequence[RoundReport],
    evaluations: Sequence[EvaluationReport],
    malicious: Collection[str],
    *,
    adapter: bytes,
    wall_s: float,
    peak_rss_mb: float,
) -> dict[str, Any]:
    """The run in figures. Means of weights are over admitted client-rounds, skipped rounds included; null if none."""
    first, last = evaluations[0], evaluations[-1]
    rows = [row for report in reports for row in report.clients]
    outcomes = [report.outcome for report in reports]
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "defense_level": config.defense.level,
        "aggregation_rule": config.aggregation.rule,
        "clients": config.clients.count,
        "malicious": config.clients.malicious,
        "rounds": config.rounds,
        **_measures(last),
        "base": _measures(first),
        "utility_by_family": {family: share.value for family, share in last.utility_by_family.items()},
        "intervals": {
            name: asdict(share)
            for name in ("rule_score", "compliance", "over_refusal")
            if (share := getattr(last, name)) is not None
        },
        "rounds_aggregated": outcomes.count("aggregated"),
        "rounds_skipped": outcomes.count("skipped"),
        "rounds_no_quorum": outcomes.count("no_quorum"),
        "updates_refused": sum(not row.admitted for row in rows),
        "mean_weight_benign": mean_weight(row for row in rows if row.client_id not in malicious),
        "mean_weight_malicious": mean_weight(row for row in rows if row.client_id in malicious),
        "adapter_sha256": hashlib.sha256(adapter).hexdigest(),
        "wall_s": round(wall_s, 2),
        "peak_rss_mb": round(peak_rss_mb, 1),
    }


def mean_weight(rows) -> float | None:
    """Mean weight over the admitted rows; None without any."""
    weights = [row.weight for row in rows if row.admitted]
    return fmean(weights) if weights else None


def _measures(report: EvaluationReport) -> dict[str, float | None]:
    shares = {name: getattr(report, name) for name in ("rule_score", "compliance", "over_refusal")}
    values = {name: share.value if share is not None else None for name, share in shares.items()}
    return values | {"utility": report.utility, "benign_loss": report.benign_loss}
