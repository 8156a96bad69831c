"""Settings of admission, levels, gate and aggregation. Defaults are the paper's (METHOD.md sections 3 and 4)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

LevelName = Literal["none", "step", "client", "shadow", "live"]
RuleName = Literal[
    "fedavg",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "bulyan",
    "geometric_median",
    "centered_clipping",
    "foolsgold",
    "dnc",
    "flame",
    "residual",
    "lasa",
]
PreName = Literal["none", "nnm"]


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


class GeometricMedianConfig(Config):
    """Smoothed Weiszfeld iteration (Pillutla, Kakade and Harchaoui 2022, arXiv 1912.13445)."""

    smoothing: PositiveFloat = 1e-6
    """nu, the smallest distance that an update's pull is divided by; the paper's."""
    tolerance: PositiveFloat = 1e-10
    """The iteration ends when no client's share changes by more than this part of it. Ours: the paper stops after some steps."""
    max_iterations: PositiveInt = 1000
    """The iteration ends here in any case."""


class CenteredClippingConfig(Config):
    """Clipping around the previous aggregate (Karimireddy, He and Jaggi 2021, arXiv 2012.10333)."""

    radius: PositiveFloat | None = None
    """tau, an L2 norm in the units of the updates. None: the median distance of a round's updates from the centre. The
    authors' 100, and 10 without momentum in arXiv 2006.09365, are for gradients of image classifiers; the update of a LoRA
    is shorter (about 3 to 6 in the embedded world), and with such a radius nothing would ever be clipped."""
    iterations: PositiveInt = 1
    """L; the paper's."""


class FoolsGoldConfig(Config):
    """Trust by dissimilarity of histories (Fung, Yoon and Beschastnikh 2020, arXiv 1808.04866)."""

    confidence: PositiveFloat = 1
    """kappa, how steeply trust falls with similarity; the paper's."""


class DncConfig(Config):
    """Spectral outlier removal (Shejwalkar and Houmansadr, NDSS 2021)."""

    iterations: PositiveInt = 1
    """Subsamples; a client must be kept in each. Public implementations of the paper use 1 or 5."""
    coordinates: PositiveInt = 10_000
    """b, how many values a subsample has."""
    filtering: float = Field(1.0, gt=0, le=2)
    """c: a subsample drops c f clients, rounded down."""


class FlameConfig(Config):
    """Clustering, clipping, noise (Nguyen et al., USENIX Security 2022, arXiv 2101.02281)."""

    noise: NonNegativeFloat = 0.001
    """lambda: the noise in each value has this standard deviation, times the clipping norm; 0: none. The paper's. Over d
    values the noise has noise x sqrt(d) times the norm of a typical update, which is more than 1 above a million values."""


class ResidualConfig(Config):
    """Residual-based reweighting, IRLS (Fu, Xie, Li and Chen 2019, arXiv 1912.11464)."""

    confidence: PositiveFloat = 2
    """lambda, width of the interval in which a residual counts fully; the paper's."""
    threshold: float = Field(0.05, ge=0, lt=1)
    """A value trusted less than this is replaced by the regression line's. Safe-FedLLM's baseline; the authors' code has 0.1."""


class LasaConfig(Config):
    """Sparsified, layer-wise filtering (Xu, Zhang and Hu, WACV 2025, arXiv 2409.01435)."""

    sparsity: float = Field(0.3, ge=0, lt=1)
    """Share of an update's values, the smallest, that is set to 0."""
    norm_radius: PositiveFloat = 1
    """lambda_n: how many standard deviations a tensor's norm may lie from the clients' median."""
    sign_radius: PositiveFloat = 1
    """lambda_s: the same for the purity of its signs."""


CLIENTS_NEEDED: dict[RuleName | PreName, tuple[int, int]] = {
    "trimmed_mean": (2, 1),
    "krum": (2, 3),
    "multi_krum": (2, 3),
    "bulyan": (4, 3),
    "dnc": (2, 1),
    "nnm": (2, 1),
}
"""Rules and pre-aggregations that assume `aggregation.f` attackers: (a, b) where n >= a f + b clients are needed."""


class AggregationConfig(Config):
    """How the weighted updates become one."""

    rule: RuleName = "fedavg"
    pre: PreName = "none"
    """What happens to the updates before the rule: `nnm` replaces each by the mean of its nearest."""
    f: NonNegativeInt | None = None
    """Attackers among a round's clients that the operator assumes; needed by the rules in CLIENTS_NEEDED, unused by others."""
    geometric_median: GeometricMedianConfig = GeometricMedianConfig()
    centered_clipping: CenteredClippingConfig = CenteredClippingConfig()
    foolsgold: FoolsGoldConfig = FoolsGoldConfig()
    dnc: DncConfig = DncConfig()
    flame: FlameConfig = FlameConfig()
    residual: ResidualConfig = ResidualConfig()
    lasa: LasaConfig = LasaConfig()

    @model_validator(mode="after")
    def _check_f(self) -> AggregationConfig:
        for key, name in self._assuming():
            if self.f is None:
                raise ValueError(
                    f"{key}={name} needs f, the number of attackers assumed among the clients of a round; set aggregation.f"
                )
        return self

    def check(self, num_clients: int) -> None:
        """Raises ValueError when the rule or the pre-aggregation cannot bear f attackers among so many clients."""
        for key, name in self._assuming():
            _check_attackers(f"aggregation.{key}={name}", name, self.f, num_clients)

    def assumed_attackers(self, num_admitted: int) -> int | None:
        """f' = f, or as many as so few admitted clients bear; None where neither rule nor pre-aggregation assumes any."""
        bears = [most_attackers(name, num_admitted) for _, name in self._assuming()]
        return min(self.f, *bears) if bears else None

    def _assuming(self) -> list[tuple[str, RuleName | PreName]]:
        return [(key, name) for key, name in (("rule", self.rule), ("pre", self.pre)) if name in CLIENTS_NEEDED]


def most_attackers(name: RuleName | PreName, num_clients: int) -> int:
    """The most attackers among so many clients that a rule or pre-aggregation in CLIENTS_NEEDED bears; at least 0."""
    slope, offset = CLIENTS_NEEDED[name]
    return max(0, (num_clients - offset) // slope)


def _check_attackers(setting: str, name: RuleName | PreName, f: int, num_clients: int) -> None:
    slope, offset = CLIENTS_NEEDED[name]
    if num_clients < offset:
        raise ValueError(
            f"{setting} needs at least {offset} clients and a round has {num_clients}; raise clients.per_round or clients.count"
        )
    needed = slope * f + offset
    if num_clients < needed:
        raise ValueError(
            f"{setting} with aggregation.f={f} needs {slope}f + {offset} = {needed} clients and a round has {num_clients}; "
            f"set aggregation.f to at most {most_attackers(name, num_clients)}, or raise clients.per_round or clients.count"
        )
