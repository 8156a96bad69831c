"""Guard on the aggregate (docs/method.md section 8, "Ratchet"). A canary that compares an update with the current adapter can be
outlasted a little every round, so the guard compares the aggregate with the adapter that the run began with.

It sums the canary's loss, the negative log-likelihood of the server's own refusals in nats per token, by the one-sided
cumulative sum of Page (1954, "Continuous inspection schemes", Biometrika 41). With L_r the loss of the adapter that round r
aggregated, after preservation, L_0 that of the initial adapter, slack k and budget h:

    S_0 = 0,    S_r = max(0, S_(r-1) + (L_r - L_0) - k)

S_r = 0 certifies the adapter. S_r > h spends the budget: the round is rolled back to the last certified adapter, and S is 0
again. Hence no adapter in force has a loss above L_0 + k + h, and an adapter that stays e above L_0 + k stays for at most h / e
rounds.

The reference is L_0 and does not move. The operator has certified that adapter by starting from it, and the guard promises only
not to fall behind it. The lowest loss of any certified adapter would be the minimum of a noisy series: it falls with every lucky
round until an adapter as safe as the first one fails. Attackers could also lower it themselves, by training on refusals for some
rounds, so that every honest round after that is rolled back. The price of L_0: where honest training lowers the loss, attackers
can raise it by as much again without notice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pydantic import NonNegativeFloat

from defense.settings import Settings


class GuardConfig(Settings):
    """Settings of the guard."""

    enabled: bool | None = None
    """Whether an aggregated round can be rolled back. None: at every level that has `canary` in it, whose rows are the server's
    refusals."""
    slack: NonNegativeFloat | None = None
    """k: rise of the refusals' negative log-likelihood over the initial adapter's that is not counted, nats per token. None: the
    standard error of that loss over the server's rows, since these cannot tell a smaller rise from none."""
    budget: NonNegativeFloat | None = None
    """h: the sum over rounds of the rise above `slack` that is allowed before a rollback, nats per token. None: what makes a
    refusal three times less likely (`defense.preservation.serious_rise`), or the slack where that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardState:
    """What the guard knows between two rounds."""

    error: float
    """Standard error of L_0 over the server's rows, nats per token: the slack where none is set."""
    certified: bytes
    """The last certified adapter, as safetensors."""
    serious: float = 0.0
    """The rise that makes a refusal three times less likely, nats per token: the budget where none is set."""
    certified_version: int = 0
    """The version under which that adapter was certified; after a rollback it has a version of its own."""
    total: float = 0.0
    """S, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The guard's verdict on one aggregate."""

    rise: float
    """L_r - L_0, nats per token."""
    total: float
    """S_r before any reset; infinite where the rise is not finite."""
    budget: float
    """h, nats per token."""
    rolls_back: bool


def judge(state: GuardState, rise: float, adapter: bytes, version: int, config: GuardConfig) -> tuple[Judgement, GuardState]:
    """Judge an aggregate; where it is rolled back, the state's `certified` is the adapter to restore.

    Args:
        rise: L_r - L_0, nats per token. One that is not finite leads to a rollback.
        adapter: The aggregate, as safetensors.
        version: Its version.
    """
    slack = state.error if config.slack is None else config.slack
    budget = max(slack, state.serious) if config.budget is None else config.budget
    total = max(0.0, state.total + rise - slack) if math.isfinite(rise) else math.inf
    judgement = Judgement(rise=rise, total=total, budget=budget, rolls_back=total > budget)
    if judgement.rolls_back:
        return judgement, replace(state, total=0.0)
    if total == 0:
        return judgement, replace(state, total=total, certified=adapter, certified_version=version)
    return judgement, replace(state, total=total)
