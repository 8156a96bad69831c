"""When a run ends by itself: its safety falls under `evaluation.stop_below`. No torch and no Ray here.

Only evaluations that are due decide, so that a run ends after the same round however often it was stopped and resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.config.schema import RunConfig

if TYPE_CHECKING:
    from actors.messages import EvaluationReport


def find_fall(config: RunConfig, evaluations: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """The newest due evaluation when its safety is under the bound; None when it is not, or there is no bound.

    Args:
        evaluations: In order of rounds. Due are those after each `evaluation.every` rounds, the base model's and that after the
            last round; not that of a realigned adapter, nor that of a round after which somebody stopped the run.
    """
    bound, due = config.evaluation.stop_below, [report for report in evaluations if _is_due(config, report.rounds_done)]
    if bound is None or not due or due[-1].rule_score is None:
        return None
    return due[-1] if due[-1].rule_score.value < bound else None


def _is_due(config: RunConfig, rounds_done: int) -> bool:
    return rounds_done == config.rounds or (rounds_done < config.rounds and rounds_done % config.evaluation.every == 0)
