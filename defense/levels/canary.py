"""Canary: judges what an update does rather than what it looks like (docs/method.md section 8).

The server holds restricted prompts with refusals that no client has. An update that makes these refusals less likely than
the global adapter does teaches compliance, in whichever layer it does so. Stateless.
"""

from __future__ import annotations

from pydantic import PositiveFloat

from defense.levels.level import Bounded, Level
from defense.settings import Settings

RISE = "canary_rise"
"""Negative log-likelihood of the server's refusals under the update minus that under the global adapter, nats per token."""


class CanarySettings(Settings):
    """Rise of the negative log-likelihood of the server's own refusals (docs/method.md section 8)."""

    max_rise: PositiveFloat | None = None
    """Nats per token over the global adapter's, from which on an update weighs 0; None: from the server's reference clients."""


LEVEL = Level(
    reads="canary",
    columns=(RISE,),
    bounded=Bounded(
        column=RISE,
        key="defense.canary.max_rise",
        by_hand=lambda config, threshold: config.canary.max_rise,  # noqa: ARG005
        half_way="from limit",
    ),
)
