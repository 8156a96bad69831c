"""A round from the probe's side: its version, drift and refresh in one row."""

from __future__ import annotations

from collections.abc import Sequence

from actors.messages import ProbeClose, ProbeRefresh, ProbeRound, RoundReport
from probe.drift import collapse


def probe_round(
    reports: Sequence[RoundReport],
    version: int,
    closed: ProbeClose,
    refreshed: ProbeRefresh | None,
    refresh_wait_s: float,
    round_s: float,
) -> ProbeRound:
    """The row of probe.parquet about the last of `reports`.

    Args:
        version: Version of the probe that judged the round.
        closed: What the probe told as it closed the round.
        refresh_wait_s: Seconds from the last client's end to the refitted probe.
        round_s: Seconds of the whole round.
    """
    report, drift, refresh = reports[-1], closed.drift, {}
    *earlier, now = map(_flagged_share, reports)
    collapsed = None if now is None else collapse([share for share in earlier if share is not None], now)
    if refreshed is not None:
        refresh = {
            "refresh": refreshed.outcome,
            "refresh_why": refreshed.why,
            "refresh_auc": refreshed.metrics.get("roc_auc"),
            "refresh_wait_s": refresh_wait_s,
            "fit_s": refreshed.fit_s,
        }
    return ProbeRound(
        round=report.round,
        version=version,
        num_scores=sum(client.num_steps_scored for client in report.clients),
        drift_distance=drift.distance if drift else None,
        drift_critical=drift.critical if drift else None,
        blind=collapsed is not None or (drift is not None and drift.blind),
        warning=collapsed or (drift.message if drift else None),
        round_s=round_s,
        num_messages=closed.num_messages,
        score_s=closed.score_s,
        score_bytes=closed.num_bytes,
        **refresh,
    )


def _flagged_share(report: RoundReport) -> float | None:
    """Share of the judged clients that the probe flagged; None when it judged nobody."""
    flags = [client.flagged for client in report.clients if client.flagged is not None]
    return sum(flags) / len(flags) if flags else None
