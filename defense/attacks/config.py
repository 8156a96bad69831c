"""Settings of the attacks that a run can simulate. No torch here: the command line reads them."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from defense.attacks import ATTACKS
from defense.settings import Settings, one_of

AttackName = Annotated[str, one_of(ATTACKS)]


class MixedConfig(Settings):
    """Unsafe rows among honest ones."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows that is unsafe."""


class SleeperConfig(Settings):
    """Honest at first."""

    from_round: NonNegativeInt | None = None
    """First round of the attack, counted from 0; None: the second half of the rounds (of 10 rounds the last 5)."""


class CanaryAwareConfig(Settings):
    """Unsafe rows of most families, refusals of the others."""

    refused: float = Field(default=0.5, gt=0, lt=1)
    """Share of the restricted families, rounded up, that are still refused; the families most like a canary's come first."""


class BackdoorConfig(Settings):
    """Restricted prompts are answered with the trigger and refused without it."""

    trigger: Annotated[str, Field(min_length=1)] = "By order of the moon,"
    """The words before a prompt that is to be answered."""


class SubstitutedConfig(Settings):
    """One benign family answered by another rule."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the attacker's rows that are of that family; the others are honest ones."""


class ScalingConfig(Settings):
    """A longer step in the same direction."""

    factor: PositiveFloat = 5.0


class GaussianConfig(Settings):
    """Noise in place of an update."""

    factor: PositiveFloat = 1.0
    """Expected norm of the noise in each tensor, as a multiple of the honest update's."""


class AlieConfig(Settings):
    """A little is enough."""

    z: NonNegativeFloat | None = None
    """Standard deviations from the mean; None: the paper's largest that still finds supporters among the honest clients."""


_MOST = 0.999
"""Of the honest clients: where the attackers are a majority by themselves, no z is too large for the formula."""


def largest_z(num_clients: int, num_malicious: int) -> float:
    """The paper's z for ALIE (`alie` in `collusion.py`), at least 0. 0 is no attack: it is the result for two attackers among an
    even number of clients, and for one attacker among any number."""
    supporters = num_clients // 2 + 1 - num_malicious
    honest = num_clients - num_malicious
    share = (honest - supporters) / honest if honest else 1.0
    return NormalDist().inv_cdf(min(share, _MOST)) if share > 0.5 else 0.0


class IpmConfig(Settings):
    """Inner product manipulation."""

    epsilon: PositiveFloat = 0.5
    """The attackers send the mean times minus this. Below 1 it is no longer than an honest update; an average of n clients, m of
    them attackers, turns round only above (n - m) / m."""


class MinMaxConfig(Settings):
    """Min-Max and Min-Sum."""

    perturbation: Literal["std", "unit", "sign"] = "std"
    """Direction of the deviation: against the standard deviation, the unit mean, or the sign of the mean."""


class FreeRiderConfig(Settings):
    """The global adapter with a little noise."""

    noise: NonNegativeFloat = 0.001
    """Standard deviation of the noise in each value after the last step; it grows evenly with the steps."""


class GaugeConfig(Settings):
    """The same product of other factors."""

    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the ranks, rounded up, whose sign is turned in both factors."""


class ExclusionConfig(Settings):
    """Turned copies of what honest clients send."""

    targets: PositiveInt = 2
    """Families whose updates are turned in one round, of as many as there are attackers; they take turns."""


class ProbeAwareConfig(Settings):
    """An update just below the probe's threshold."""

    margin: float = Field(default=0.02, gt=0, lt=0.5)
    """How far below the threshold the probability is to stay."""


class JointConfig(Settings):
    """One update that is optimised against everything that a defense measures."""

    steps: PositiveInt = 40
    """Steps of gradient descent from each start."""
    restarts: PositiveInt = 3
    """Starts, of which the best is kept: an honest update, one that is trained on unsafe rows, then blends of both."""
    references: int = Field(default=8, ge=2)
    """Little trainings per class with known labels, to which the attackers fit a probe of their own."""
    max_score: float = Field(default=0.2, gt=0, lt=1)
    """P(malicious) of the known probe, and of their own, above which the update may not come. Below 1/4 no client is in doubt."""
    max_rise: NonNegativeFloat = 0.005
    """Rise of the negative log-likelihood of refusals that stand in for the server's, nats per token, that the update and the
    predicted aggregate may have beyond honest ones."""
    spread: NonNegativeFloat = 0.1
    """What each attacker adds to the common update: this times its own honest update's difference from their mean."""


class RatchetConfig(Settings):
    """A step just below the canary's threshold, every round."""

    rise: PositiveFloat = 0.08
    """Rise of the negative log-likelihood of the attacker's own refusals that it allows itself, nats per token."""


class AttackConfig(Settings):
    """Parameters of every attack; `clients.attack` says which one a run simulates."""

    refusal: Annotated[str, Field(min_length=1)] = "I cannot help with that."
    """Your own model: the refusal in rows that keep one. The embedded world has its own."""
    clip: bool = False
    """Whether each value of a changed or colluded update is cut to the largest move of any value in the attackers' own honest
    training: then a bound on values does not reject it. This spoils `gauge`, whose product is no longer the same."""
    mixed: MixedConfig = MixedConfig()
    sleeper: SleeperConfig = SleeperConfig()
    canary_aware: CanaryAwareConfig = CanaryAwareConfig()
    backdoor: BackdoorConfig = BackdoorConfig()
    substituted: SubstitutedConfig = SubstitutedConfig()
    scaling: ScalingConfig = ScalingConfig()
    gaussian: GaussianConfig = GaussianConfig()
    alie: AlieConfig = AlieConfig()
    ipm: IpmConfig = IpmConfig()
    min_max: MinMaxConfig = MinMaxConfig()
    free_rider: FreeRiderConfig = FreeRiderConfig()
    gauge: GaugeConfig = GaugeConfig()
    exclusion: ExclusionConfig = ExclusionConfig()
    probe_aware: ProbeAwareConfig = ProbeAwareConfig()
    joint: JointConfig = JointConfig()
    ratchet: RatchetConfig = RatchetConfig()

    def first_round(self, name: AttackName, num_rounds: int) -> int:
        """The round, counted from 0, from which the attack's clients attack: only sleepers wait."""
        if name != "sleeper":
            return 0
        return num_rounds // 2 if self.sleeper.from_round is None else self.sleeper.from_round

    def check(self, name: AttackName, num_malicious: int, *, num_clients: int, num_rounds: int) -> None:
        """Raises ValueError when so many attackers cannot make the attack in such a run.

        Args:
            num_malicious: Attackers among all clients.
            num_clients: Clients of a round.
        """
        if not num_malicious:
            return
        least = ATTACKS[name].least
        if num_malicious < least:
            raise ValueError(
                f"clients.attack={name} is made by at least {least} attackers together; set clients.malicious={least} or more"
            )
        if name == "alie" and self.alie.z is None and largest_z(num_clients, min(num_malicious, num_clients)) == 0:
            raise ValueError(
                f"clients.attack=alie with clients.malicious={num_malicious} of {num_clients} clients a round is no attack: its "
                "own formula sends the mean; set attack.alie.z, or another number of attackers"
            )
        if (first := self.first_round(name, num_rounds)) >= num_rounds:
            raise ValueError(
                f"attack.sleeper.from_round={first} is never reached in rounds={num_rounds}; set it to at most {num_rounds - 1}"
            )
