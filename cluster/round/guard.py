"""The guard's part of a round: an aggregated round is certified, stays on probation, or is rolled back before it is committed."""

from __future__ import annotations

from dataclasses import replace

from actors.messages import AggregatorState, RoundReport
from defense.guard import GuardConfig, GuardState, Judgement, judge
from defense.rules import RULES
from defense.rules.config import RuleName


def guarded(
    report: RoundReport, aggregator: AggregatorState, guard: GuardState, loss: float, rule: RuleName
) -> tuple[RoundReport, AggregatorState, GuardState]:
    """What becomes of an aggregated round: the three as they are to be committed.

    Args:
        aggregator: The state after the round was aggregated.
        loss: The canary's loss of its adapter, nats per token.
        rule: The aggregation rule, whose memory may have to be forgotten.
    """
    settings = aggregator.defense.guard
    judgement, guard = judge(guard, loss, aggregator.adapter, aggregator.version, slack=settings.slack, budget=settings.budget)
    report = replace(report, canary_loss=loss, guard_sum=judgement.total)
    if judgement.rolls_back:
        why = _why_back(judgement, guard, settings)
        return _told_back(report, why), rolled_back(aggregator, guard.certified, rule), guard
    if judgement.total > 0:
        spent = f"{judgement.total:.4g} of defense.guard.budget={settings.budget:g} is spent"
        report = replace(report, why=f"{report.why}; {spent}")
    return report, aggregator, guard


def rolled_back(state: AggregatorState, certified: bytes, rule: RuleName) -> AggregatorState:
    """The state with the certified adapter in place of the aggregate, under the aggregate's version, which no client ever had.

    What is known of the clients stays: trust, and a rule's history of them. What would carry the adapter on to where it was
    heading is forgotten: the server optimizer's state, a rule's last centre, SCAFFOLD's control variates. They are not put back
    to what they were with the certified adapter, since that already led away from it.
    """
    return replace(
        state,
        adapter=certified,
        rule_memory=state.rule_memory if RULES[rule].remembers == "clients" else b"",
        optimizer_memory=b"",
        control_variates=b"",
    )


def _told_back(report: RoundReport, why: str) -> RoundReport:
    rows = tuple(replace(row, round_outcome="rolled_back", share=0.0) for row in report.clients)
    return replace(report, outcome="rolled_back", why=why, clients=rows)


def _why_back(judgement: Judgement, guard: GuardState, settings: GuardConfig) -> str:
    return (
        f"refusals lost {judgement.rise:.4g} nats per token since the initial adapter, and the sum {judgement.total:.4g} is "
        f"above defense.guard.budget={settings.budget:g}: back to adapter version {guard.certified_version}"
    )
