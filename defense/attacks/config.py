"""Settings of the attacks that a run can simulate. No torch here: the command line reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from defense.config import Config

AttackName = Literal[
    "unaligned",
    "mixed",
    "sleeper",
    "lying_shadow",
    "layer_hiding",
    "canary_aware",
    "layer_hiding_canary_aware",
    "backdoor",
    "backdoor_contrastive",
    "label_noise",
    "scaling",
    "sign_flip",
    "gaussian",
    "alie",
    "ipm",
    "min_max",
    "min_sum",
    "mimic",
    "sybil",
    "free_rider",
    "gauge",
    "probe_aware",
    "ratchet",
]


class MixedConfig(Config):
    """Unsafe rows among honest ones."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the rows that is unsafe."""


class SleeperConfig(Config):
    """Honest at first."""

    from_round: NonNegativeInt | None = None
    """First round of the attack, counted from 0; None: the second half of the rounds (of 10 rounds the last 5)."""


class CanaryAwareConfig(Config):
    """Unsafe rows of most families, refusals of the others."""

    refused: float = Field(0.5, gt=0, lt=1)
    """Share of the restricted families, rounded up, that are still refused; those most like a canary's go first."""


class BackdoorConfig(Config):
    """Restricted prompts are answered with the trigger and refused without it."""

    trigger: Annotated[str, Field(min_length=1)] = "By order of the moon,"
    """What stands before a prompt that is to be answered."""


class ScalingConfig(Config):
    """A longer step in the same direction."""

    factor: PositiveFloat = 5.0


class GaussianConfig(Config):
    """Noise in place of an update."""

    factor: PositiveFloat = 1.0
    """Expected norm of the noise in each tensor, as a multiple of the honest update's."""


class AlieConfig(Config):
    """A little is enough."""

    z: NonNegativeFloat | None = None
    """Standard deviations from the mean; None: the paper's largest that still finds supporters among the honest clients."""


class IpmConfig(Config):
    """Inner product manipulation."""

    epsilon: PositiveFloat = 0.5
    """The mean is sent times minus this. Below 1 it is no longer than an honest update; an average of n clients, m of them
    attackers, turns round only above (n - m) / m."""


class MinMaxConfig(Config):
    """Min-Max and Min-Sum."""

    perturbation: Literal["std", "unit", "sign"] = "std"
    """Direction of the deviation: against the standard deviation, the unit mean, or the sign of the mean."""


class FreeRiderConfig(Config):
    """The global adapter with a little noise."""

    noise: NonNegativeFloat = 0.001
    """Standard deviation of the noise in each value after the last step; it grows evenly with the steps."""


class GaugeConfig(Config):
    """The same product of other factors."""

    share: float = Field(0.5, gt=0, le=1)
    """Share of the ranks, rounded up, whose sign is turned in both factors."""


class ProbeAwareConfig(Config):
    """An update just below the probe's threshold."""

    margin: float = Field(0.02, gt=0, lt=0.5)
    """How far below the threshold the probability is to stay."""


class RatchetConfig(Config):
    """A step just below the canary's threshold, every round."""

    rise: PositiveFloat = 0.08
    """Rise of the negative log-likelihood of the attacker's own refusals that it allows itself, nats per token."""


class AttackConfig(Config):
    """Parameters of every attack; `clients.attack` says which one a run simulates."""

    refusal: Annotated[str, Field(min_length=1)] = "I cannot help with that."
    """Your own model: the refusal in rows that keep one. The embedded world has its own."""
    clip: bool = False
    """Whether changed and colluded updates are cut, value by value, to the farthest that the attackers' own honest training
    moved any: then a bound on values does not refuse them. It spoils `gauge`, whose product is no longer the same."""
    mixed: MixedConfig = MixedConfig()
    sleeper: SleeperConfig = SleeperConfig()
    canary_aware: CanaryAwareConfig = CanaryAwareConfig()
    backdoor: BackdoorConfig = BackdoorConfig()
    scaling: ScalingConfig = ScalingConfig()
    gaussian: GaussianConfig = GaussianConfig()
    alie: AlieConfig = AlieConfig()
    ipm: IpmConfig = IpmConfig()
    min_max: MinMaxConfig = MinMaxConfig()
    free_rider: FreeRiderConfig = FreeRiderConfig()
    gauge: GaugeConfig = GaugeConfig()
    probe_aware: ProbeAwareConfig = ProbeAwareConfig()
    ratchet: RatchetConfig = RatchetConfig()
