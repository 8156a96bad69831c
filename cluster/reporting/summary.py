"""summary.json: the outcome of a run in one flat object."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from actors.messages import ClientRound, EvaluationReport, ProbeRound, Proportion, RoundReport
from cluster.config.schema import RunConfig
from cluster.state.run_state import Change
from cluster.state.safety_bound import find_fall
from cluster.state.tables import SCHEMA_VERSION

_SHARES = ("rule_score", "compliance", "attack_success", "over_refusal")


def summarise(
    config: RunConfig,
    reports: Sequence[RoundReport],
    probe: Sequence[ProbeRound],
    evaluations: Sequence[EvaluationReport],
    malicious: Collection[str],
    *,
    adapter: bytes,
    changes: Sequence[Change],
    realigned_s: float = 0.0,
    wall_s: float,
    peak_rss_mb: float,
) -> dict[str, Any]:
    """The run in figures. Means of weights are over admitted client-rounds, skipped rounds included; null if none.

    `stopped_below` is the bound under which safety fell, after which the run has no more rounds; null where it did not.
    The measures are those of the adapter that the run ends with; where it was realigned, `before_realignment` has the others.
    """
    first, last = evaluations[0], evaluations[-1]
    fell = find_fall(config, evaluations) is not None
    rows = [row for report in reports for row in report.clients]
    outcomes = [report.outcome for report in reports]
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "defense_level": config.defense.level,
        "aggregation_rule": config.aggregation.rule,
        "clients": config.clients.count,
        "malicious": config.clients.malicious,
        "attack": config.clients.attack if config.clients.malicious else None,
        "rounds": config.rounds,
        "rounds_done": len(reports),
        "stopped_below": config.evaluation.stop_below if fell else None,
        "changes": [asdict(change) for change in changes],
        **_measures(last),
        "base": _measures(first),
        "before_realignment": _measures(evaluations[-2]) if last.rounds_done > len(reports) else None,
        "utility_by_family": {family: share.value for family, share in last.utility_by_family.items()},
        "intervals": {name: _interval(share) for name in _SHARES if (share := getattr(last, name)) is not None},
        "rounds_aggregated": outcomes.count("aggregated"),
        "rounds_skipped": outcomes.count("skipped"),
        "rounds_no_quorum": outcomes.count("no_quorum"),
        "rounds_rolled_back": outcomes.count("rolled_back"),
        "updates_refused": sum(not row.admitted for row in rows),
        "mean_weight_benign": mean_weight(row for row in rows if row.client_id not in malicious),
        "mean_weight_malicious": mean_weight(row for row in rows if row.client_id in malicious),
        "put_out_benign": put_out(row for row in rows if row.client_id not in malicious),
        "put_out_malicious": put_out(row for row in rows if row.client_id in malicious),
        **_verdicts(rows, malicious),
        "verdicts_by_round": [{"round": report.round, **_verdicts(report.clients, malicious)} for report in reports],
        **_refreshes(probe),
        "adapter_sha256": hashlib.sha256(adapter).hexdigest(),
        **_server_cost(reports, probe, realigned_s),
        "wall_s": round(wall_s, 2),
        "peak_rss_mb": round(peak_rss_mb, 1),
    }


def mean_weight(rows) -> float | None:
    """Mean weight over the admitted rows; None without any."""
    weights = [row.weight for row in rows if row.admitted]
    return fmean(weights) if weights else None


def put_out(rows: Iterable[ClientRound]) -> float | None:
    """Share of the rows of clients that counted for nothing: refused, late, lost, or of weight 0; None without any."""
    weights = [row.weight for row in rows]
    return weights.count(0.0) / len(weights) if weights else None


def _verdicts(rows: Iterable[ClientRound], malicious: Collection[str]) -> dict[str, float | None]:
    """TPR and FPR of the probe's verdicts at the end of each client's round; None without verdicts of that group."""
    judged = [row for row in rows if row.flagged is not None]
    groups = {
        "tpr": [row.flagged for row in judged if row.client_id in malicious],
        "fpr": [row.flagged for row in judged if row.client_id not in malicious],
    }
    return {name: fmean(flags) if flags else None for name, flags in groups.items()}


def _refreshes(probe: Sequence[ProbeRound]) -> dict[str, float | int | None]:
    """Refreshes of the probe, and the share of the rounds' time that was spent waiting for them."""
    rounds_s = sum(row.round_s for row in probe)
    waited_s = sum(row.refresh_wait_s or 0.0 for row in probe)
    return {
        "probe_version": probe[-1].version if probe else None,
        "probe_refreshes": sum(row.refresh == "accepted" for row in probe),
        "probe_refreshes_rejected": sum(row.refresh == "rejected" for row in probe),
        "probe_refresh_share": waited_s / rounds_s if rounds_s else None,
        "rounds_blind": sum(row.blind for row in probe),
    }


def _server_cost(reports: Sequence[RoundReport], probe: Sequence[ProbeRound], realigned_s: float) -> dict[str, Any]:
    """Seconds of the server's own work by part, and their sum; starting actors and evaluation are no part of it.

    `scoring`: the probe, on the clients' messages. `refreshing`: what rounds waited for a refitted probe, the training of the
    reference clients and the fit among it. `canary`, `validation`: their measurements, the latter's own training among them.
    `aggregating`: the aggregator, from the first update of a round to its end, waits left out. `realigning`: after the last
    round. `scoring`, `canary` and `validation` overlap the clients' training.
    """
    parts = {
        "scoring": sum(row.score_s for row in probe),
        "refreshing": sum(row.refresh_wait_s or 0.0 for row in probe),
        "canary": sum(report.canary_s for report in reports),
        "validation": sum(report.validation_s for report in reports),
        "aggregating": sum(report.submit_s + report.aggregate_s for report in reports),
        "realigning": realigned_s,
    }
    seconds = {name: round(value, 3) for name, value in parts.items()}
    return {"server_s": round(sum(parts.values()), 3), "server_seconds": seconds}


def _interval(share: Proportion) -> dict[str, float | int]:
    return {"value": share.value, "low": share.low, "high": share.high, "count": share.count}


def _measures(report: EvaluationReport) -> dict[str, float | None]:
    shares = {name: getattr(report, name) for name in _SHARES}
    values = {name: share.value if share is not None else None for name, share in shares.items()}
    return values | {"utility": report.utility, "benign_loss": report.benign_loss}
