"""What the server's refusals say of an aggregated round before it is committed.

Preservation mends what the round has lost of them. Then the guard certifies the adapter, puts it on probation or rolls it back.
"""

from __future__ import annotations

from dataclasses import replace

from actors.messages import AggregatorState, Preserved, RoundReport
from defense.guard import GuardState, Judgement, judge
from defense.rules import RULES
from defense.rules.config import RuleName


def preserved(report: RoundReport, aggregator: AggregatorState, found: Preserved) -> tuple[RoundReport, AggregatorState]:
    """The round with the mended adapter under the aggregate's version, and with what was measured of its refusals."""
    steps = found.num_steps if aggregator.defense.preserves else None
    report = replace(report, refusal_rise=found.rise, preserved_rise=found.rise_after, preservation_steps=steps)
    if found.num_steps:
        why = f"refusals were mended in {found.num_steps} steps: {found.rise:+.2g} to {found.rise_after:+.2g} nats per token"
        report = replace(report, why=f"{report.why}; {why}")
    return report, replace(aggregator, adapter=found.adapter)


def guarded(
    report: RoundReport, aggregator: AggregatorState, guard: GuardState, rise: float, rule: RuleName
) -> tuple[RoundReport, AggregatorState, GuardState]:
    """What becomes of an aggregated round: the three as they are to be committed.

    Args:
        aggregator: The state after the round was aggregated, and preserved.
        rise: By how much its adapter raises the refusals' loss over the initial adapter's, nats per token.
        rule: The aggregation rule, whose memory may have to be forgotten.
    """
    judgement, guard = judge(guard, rise, aggregator.adapter, aggregator.version, aggregator.defense.guard)
    report = replace(report, guard_sum=judgement.total)
    if judgement.rolls_back:
        return _told_back(report, _why_back(judgement, guard)), rolled_back(aggregator, guard.certified, rule), guard
    if judgement.total > 0:
        spent = f"{judgement.total:.4g} of the guard's budget of {judgement.budget:.4g} is spent"
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


def _why_back(judgement: Judgement, guard: GuardState) -> str:
    return (
        f"refusals lost {judgement.rise:.4g} nats per token since the initial adapter, and the sum {judgement.total:.4g} is "
        f"above the guard's budget of {judgement.budget:.4g}: back to adapter version {guard.certified_version}"
    )
