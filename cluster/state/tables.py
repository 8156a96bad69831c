"""Messages as Arrow tables: the rows of rounds.parquet and evaluation.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from actors.messages import ClientRound, EvaluationReport, ProbeRound, Proportion, RoundReport

SCHEMA_VERSION = 1

_ROUNDS = pa.schema(
    [
        ("round", pa.int32()),
        ("client_id", pa.string()),
        ("admitted", pa.bool_()),
        ("reason", pa.string()),
        ("num_samples", pa.int32()),
        ("num_steps_scored", pa.int32()),
        ("malicious_ratio", pa.float64()),
        ("last_step_probability", pa.float64()),
        ("flagged", pa.bool_()),
        ("weight", pa.float64()),
        ("share", pa.float64()),
        ("update_norm", pa.float64()),
        ("loss", pa.float64()),
        ("train_s", pa.float64()),
        ("probe_version", pa.int32()),
        ("round_outcome", pa.string()),
        ("num_bytes", pa.int64()),
        ("canary_rise", pa.float64()),
        ("validation_cosine", pa.float64()),
        ("validation_fall", pa.float64()),
        ("agreement", pa.float64()),
        ("flatness", pa.float64()),
        ("canary_loss", pa.float64()),
        ("guard_sum", pa.float64()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
_PROBE = pa.schema(
    [
        ("round", pa.int32()),
        ("version", pa.int32()),
        ("num_scores", pa.int32()),
        ("drift_distance", pa.float64()),
        ("drift_critical", pa.float64()),
        ("blind", pa.bool_()),
        ("warning", pa.string()),
        ("refresh", pa.string()),
        ("refresh_why", pa.string()),
        ("refresh_tpr", pa.float64()),
        ("refresh_fpr", pa.float64()),
        ("refresh_wait_s", pa.float64()),
        ("fit_s", pa.float64()),
        ("round_s", pa.float64()),
        ("num_messages", pa.int32()),
        ("score_s", pa.float64()),
        ("score_bytes", pa.int64()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
_MEASURES = ("rule_score", "compliance", "attack_success", "over_refusal")
_EVALUATION = pa.schema(
    [
        ("rounds_done", pa.int32()),
        ("adapter_version", pa.int32()),
        ("measure", pa.string()),
        ("family", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("count", pa.int32()),
        ("outcomes", pa.string()),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)


def rounds_table(reports: Sequence[RoundReport]) -> pa.Table:
    """A row per client per round, in order of round and client id; what the guard says is the same in all rows of a round."""
    rows = [_client_row(report, client) for report in reports for client in report.clients]
    return pa.Table.from_pylist(rows, schema=_ROUNDS)


def _client_row(report: RoundReport, client: ClientRound) -> dict:
    return {**asdict(client), "canary_loss": report.canary_loss, "guard_sum": report.guard_sum}


def probe_table(rows: Sequence[ProbeRound]) -> pa.Table:
    """A row per round: which probe judged it, whether its scores have drifted, and what became of a refresh."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=_PROBE)


def evaluation_table(reports: Sequence[EvaluationReport]) -> pa.Table:
    """A row per measure (rule_score, compliance, attack_success, over_refusal, utility, benign_loss) and evaluation.

    Utility has a row per family with its interval and one for the macro mean, whose family is null. `outcomes` has a digit per
    prompt, 1 or 0, in the order of the prompt file.
    """
    rows = []
    for report in reports:
        place = {"rounds_done": report.rounds_done, "adapter_version": report.adapter_version}
        rows += [place | _row(measure, None, getattr(report, measure)) for measure in _MEASURES if getattr(report, measure)]
        rows += [place | _row("utility", family, share) for family, share in report.utility_by_family.items()]
        for measure in ("utility", "benign_loss"):
            if getattr(report, measure) is not None:
                rows.append(place | {"measure": measure, "value": getattr(report, measure)})
    return pa.Table.from_pylist(rows, schema=_EVALUATION)


def _row(measure: str, family: str | None, share: Proportion) -> dict:
    return {"measure": measure, "family": family, **asdict(share)}
