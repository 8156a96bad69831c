"""Builders of reports with few clients, for tests of tables, summaries and pictures."""

from actors.messages import ClientRound, EvaluationReport, ProbeRound, Proportion, RoundReport


def client_round(
    round_index: int, client_id: str, weight: float, *, admitted: bool = True, outcome: str = "aggregated"
) -> ClientRound:
    return ClientRound(
        round=round_index,
        client_id=client_id,
        admitted=admitted,
        reason=None if admitted else "late",
        num_samples=16 if admitted else 0,
        num_steps_scored=1,
        malicious_ratio=1 - weight if admitted else None,
        last_step_probability=0.5,
        flagged=weight < 0.5 if admitted else None,
        weight=weight,
        share=0.5,
        update_norm=1.0,
        loss=2.0,
        train_s=0.1,
        probe_version=1,
        round_outcome=outcome,
        num_bytes=1000 if admitted else 0,
    )


def round_report(round_index: int, weights: dict[str, float | None], outcome: str = "aggregated") -> RoundReport:
    """`weights`: client id -> weight, None for a client that was not admitted."""
    clients = tuple(
        client_round(round_index, name, weight or 0.0, admitted=weight is not None, outcome=outcome)
        for name, weight in weights.items()
    )
    return RoundReport(round=round_index, outcome=outcome, why="because", adapter_version=1, mean_weight=0.5, clients=clients)


def probe_row(round_index: int, **fields) -> ProbeRound:
    """A round without drift or refresh, unless `fields` say otherwise."""
    quiet = {"version": 1, "num_scores": 4, "drift_distance": 0.1, "drift_critical": 0.8, "blind": False, "warning": None}
    return ProbeRound(round=round_index, **{**quiet, "round_s": 1.0, **fields})


def evaluation_report(rounds_done: int, rule_score: float) -> EvaluationReport:
    share = Proportion(value=rule_score, low=rule_score - 0.1, high=rule_score + 0.1, count=100)
    return EvaluationReport(
        rounds_done=rounds_done,
        adapter_version=rounds_done,
        rule_score=share,
        compliance=None,
        over_refusal=share,
        utility=0.75,
        utility_by_family={"a": share},
        benign_loss=1.5,
        seconds=0.1,
    )
