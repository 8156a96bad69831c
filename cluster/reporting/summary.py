"""summary.json: the outcome of a run in one flat object."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import get_args

from actors.messages import ClientRound, EvaluationReport, ProbeRound
from cluster.config.schema import RunConfig
from cluster.reporting.safety import safety_kept
from cluster.state.run_state import RunState, find_fall
from cluster.state.tables import SCHEMA_VERSION, measures, shares, without_outcomes
from defense.gate import Outcome

_NOT_MEASURED = dict.fromkeys(
    (
        *("rule_score", "compliance", "attack_success", "over_refusal", "over_refusal_sounds_unsafe"),
        *("utility", "benign_loss", "perplexity"),
    )
)


def summarise(config: RunConfig, state: RunState, malicious: Collection[str], peak_rss_mb: float) -> dict[str, object]:
    """The run in figures. Mean weights are over admitted client-rounds, skipped rounds included; null without any.

    `excluded_benign`, `excluded_malicious`: share of the group's client-rounds that did not count: the client was refused,
    late or lost, or its weight was 0; null without any. `safety_kept`: the final adapter's rule score over the initial
    one's. `stopped_below`: the bound under which safety fell, so that the run ended; null where it did not fall. The measures are
    those of the final adapter; where it was realigned, `before_realignment` has those of the adapter before.
    """
    first, last = state.evaluations[0], state.evaluations[-1]
    rows = [row for report in state.rounds for row in report.clients]
    benign = [row for row in rows if row.client_id not in malicious]
    attackers = [row for row in rows if row.client_id in malicious]
    outcomes = [report.outcome for report in state.rounds]
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "defense_level": config.defense.level,
        "aggregation_rule": config.aggregation.rule,
        "clients": config.clients.count,
        "malicious": config.clients.malicious,
        "attack": config.clients.attack if config.clients.malicious else None,
        "rounds": config.rounds,
        "rounds_done": len(outcomes),
        "stopped_below": config.evaluation.stop_below if find_fall(config, state.evaluations) else None,
        "changes": [asdict(change) for change in state.changes],
        **_every_measure(last),
        "base": _every_measure(first),
        "safety_kept": safety_kept(first, last),
        "before_realignment": _every_measure(state.evaluations[-2]) if last.rounds_done > len(outcomes) else None,
        "utility_by_family": {family: share.value for family, share in last.utility_by_family.items()},
        "utility_measure": config.utility_measure,
        "intervals": {name: asdict(share, dict_factory=without_outcomes) for name, share in shares(last).items()},
        **{f"rounds_{outcome}": outcomes.count(outcome) for outcome in get_args(Outcome)},
        "updates_refused": sum(not row.admitted for row in rows),
        "mean_weight_benign": _mean([row.weight for row in benign if row.admitted]),
        "mean_weight_malicious": _mean([row.weight for row in attackers if row.admitted]),
        "excluded_benign": _mean([row.weight == 0 for row in benign]),
        "excluded_malicious": _mean([row.weight == 0 for row in attackers]),
        **_verdicts(rows, malicious),
        "verdicts_by_round": [{"round": report.round, **_verdicts(report.clients, malicious)} for report in state.rounds],
        **_refreshes(state.probe_rounds),
        "adapter_sha256": hashlib.sha256(state.final_adapter).hexdigest(),
        **_server_cost(state),
        "wall_s": round(state.elapsed_s, 2),
        "peak_rss_mb": round(peak_rss_mb, 1),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _verdicts(rows: Iterable[ClientRound], malicious: Collection[str]) -> dict[str, float | None]:
    """TPR and FPR of the probe's verdicts at the end of each client's round; None without verdicts of that group."""
    flags = [(row.client_id in malicious, row.flagged) for row in rows if row.flagged is not None]
    return {
        "tpr": _mean([flagged for is_malicious, flagged in flags if is_malicious]),
        "fpr": _mean([flagged for is_malicious, flagged in flags if not is_malicious]),
    }


def _refreshes(probe: Sequence[ProbeRound]) -> dict[str, float | int | None]:
    """Refreshes of the probe, and the share of the rounds' time that was spent waiting for them."""
    rounds_s = sum(row.round_s for row in probe)
    waited_s = sum(row.refresh_wait_s or 0.0 for row in probe)
    return {
        "probe_version": probe[-1].version if probe else None,
        "probe_refreshes": sum(row.refresh is not None for row in probe),
        "probe_refits": sum(row.refresh == "accepted" for row in probe),
        "probe_refreshes_rejected": sum(row.refresh == "rejected" for row in probe),
        "probe_refresh_share": waited_s / rounds_s if rounds_s else None,
        "rounds_blind": sum(row.blind for row in probe),
    }


def _server_cost(state: RunState) -> dict[str, object]:
    """Seconds of the server's own work by part, and their sum, without the start of actors and evaluation.

    `scoring`: the probe, on the clients' messages. `refreshing`: waits of rounds for a refitted probe, with the training of the
    reference clients and the fit. `canary`, `validation`: their measurements, with the training of the validation's own update.
    `preservation`: measuring and mending what each round's aggregate has lost of the refusals.
    `aggregating`: the aggregator, from the first update of a round to its end, without waits. `realigning`: after the last
    round. `scoring`, `canary` and `validation` overlap the clients' training.
    """
    parts = {
        "scoring": sum(row.score_s for row in state.probe_rounds),
        "refreshing": sum(row.refresh_wait_s or 0.0 for row in state.probe_rounds),
        "canary": sum(report.measuring_s.get("canary", 0.0) for report in state.rounds),
        "validation": sum(report.measuring_s.get("validation", 0.0) for report in state.rounds),
        "preservation": sum(report.measuring_s.get("preservation", 0.0) for report in state.rounds),
        "aggregating": sum(report.admit_s + report.aggregate_s for report in state.rounds),
        "realigning": state.realigned.seconds if state.realigned else 0.0,
    }
    seconds = {name: round(value, 3) for name, value in parts.items()}
    return {"server_s": round(sum(parts.values()), 3), "server_seconds": seconds}


def _every_measure(report: EvaluationReport) -> dict[str, float | None]:
    return _NOT_MEASURED | measures(report)
