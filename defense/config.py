"""Settings of admission, levels, gate and aggregation. Defaults are the paper's (METHOD.md sections 3 and 4)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

LevelName = Literal["none", "step", "client", "shadow", "live"]
RuleName = Literal["fedavg"]


class Config(BaseModel):
    """Base of every settings class: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StepLevelConfig(Config):
    """Bayesian trust from flagged samples."""

    decay: float = Field(0.95, gt=0, le=1)
    """Time decay gamma of both counts, per round."""
    adapt_rounds: PositiveInt = 20
    """Own scored rounds of a client after which its trust is frozen."""


class ClientLevelConfig(Config):
    """Running mean of a two-sided logistic of the last step's probability."""

    steepness: PositiveFloat = 10
    """k of the logistic."""
    adapt_rounds: PositiveInt = 20
    """Own scored rounds of a client after which its trust is frozen."""


class ShadowLevelConfig(Config):
    """Suppression by the share of flagged samples of the shadow branch."""

    strength: PositiveFloat = 7
    """Exponent eta."""
    learning_rate: PositiveFloat = 5e-5
    """Fixed learning rate of the shadow branch; it should be the one the probe was collected with."""


class LiveLevelConfig(Config):
    """Verdict on the submitted update itself (METHOD.md section 8)."""

    soft: bool = False
    """Weigh by the client level's curve instead of 0 or 1."""
    steepness: PositiveFloat = 10
    """k of that curve."""


class DefenseConfig(Config):
    """Who counts, and how much."""

    level: LevelName = "shadow"
    min_weight: float = Field(0.0, ge=0, le=1)
    """Lower bound of weights computed from valid evidence, applied after the skip gate."""
    skip_below: float = Field(0.2, ge=0, le=1)
    """A round whose mean weight is below this is skipped."""
    step: StepLevelConfig = StepLevelConfig()
    client: ClientLevelConfig = ClientLevelConfig()
    shadow: ShadowLevelConfig = ShadowLevelConfig()
    live: LiveLevelConfig = LiveLevelConfig()


class AdmissionConfig(Config):
    """Bounds that an update must keep to be considered at all."""

    max_norm: PositiveFloat | None = None
    """Largest L2 norm of a client's delta. None: `norm_factor` x learning rate x steps x sqrt(number of values)."""
    norm_factor: PositiveFloat = 4.0
    """AdamW moves a value by about the learning rate per step, so an honest delta stays near factor 1."""


class AggregationConfig(Config):
    """How the weighted updates become one."""

    rule: RuleName = "fedavg"
