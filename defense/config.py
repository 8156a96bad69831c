"""Settings of admission, levels, gate and aggregation. Defaults are the paper's (METHOD.md sections 3 and 4)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

LevelName = Literal["none", "step", "client", "shadow", "evidence", "live", "canary", "spectrum", "consensus", "fltrust", "zeno"]
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
OptimizerName = Literal["none", "fedavgm", "fedadagrad", "fedyogi", "fedadam"]
AveragingName = Literal["factors", "ffa", "svd"]


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


class EvidenceLevelConfig(Config):
    """The shadow level with fewer shadow runs; `shadow.strength` and `shadow.learning_rate` hold for it too."""

    verdicts: PositiveInt = 3
    """Equal verdicts in a row that freeze a client."""
    audit_every: PositiveInt = 5
    """A client that is frozen as benign runs a shadow in every so many of its rounds."""
    appeal_after: PositiveInt | None = 10
    """Own rounds after which a client that is frozen as malicious runs a shadow again; None, as the authors: never."""


class CanaryLevelConfig(Config):
    """Rise of the negative log-likelihood of the server's own refusals (METHOD.md section 8)."""

    max_rise: PositiveFloat = 0.5
    """Nats per token over the global adapter's, above which an update weighs 0. METHOD.md has 0.1, which honest clients exceed
    while the learning rate is high: in embedded worlds 0 to 2 by up to 0.11 with like data, 0.73 with one task each and 0.88
    at twice the learning rate. Unaligned data raises it by 1 to 2.6 in those rounds; what stays below is left to level live."""


class SpectrumLevelConfig(Config):
    """How much an update's spectrum may look like that of noise (`defense/levels/spectrum.py`)."""

    max_flatness: PositiveFloat = 0.9
    """Flatness above which an update weighs 0. In embedded worlds 0, 2, 3 and 7 honest clients had at most 0.70 in ten rounds
    (a task each, other learning rates, SGD), 0.74 with a single step of AdamW in the first; noise had at least 0.988."""


class ConsensusLevelConfig(Config):
    """Whether a client pulls with the others or against them (METHOD.md section 8)."""

    min_cosine: float = Field(-0.1, ge=-1, le=1)
    """Mean cosine of a client's updates to those of the others, below which it weighs 0. In three embedded worlds honest
    clients were above 0.02 when all have like data and above -0.06 when each has a task of its own; updates with the sign
    turned, 3 of 10, began below -0.4 and below -0.2 (not told apart where each client has a task of its own)."""
    decay: float = Field(0.9, gt=0, le=1)
    """How older rounds fade, per own round of the client."""


class ZenoLevelConfig(Config):
    """Fall of the loss of the server's validation data (`defense/levels/zeno.py`)."""

    price: NonNegativeFloat = 0.0005
    """rho, nats per token and squared L2 norm of the update. The number is the authors', the unit is not: their code multiplies
    it by the mean square of a gradient, far less. 0: the fall of the loss alone decides."""
    min_score: float = 0.0
    """Score below which an update weighs 0, nats per token."""


def _joined(level: Any) -> Any:
    """Levels as one text with `+` between them, from that or from a list; raises ValueError when they cannot compose."""
    names = [str(name) for name in level] if isinstance(level, (list, tuple)) else str(level).split("+")
    known = get_args(LevelName)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no level; there are {', '.join(known)}, and compositions such as live+canary")
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1) or not names:
        raise ValueError(f"level={'+'.join(names)}: name each level once, and `none` alone")
    if {"shadow", "evidence"} <= set(names):
        raise ValueError(f"level={'+'.join(names)}: evidence is shadow with fewer of them; leave one of the two out")
    return "+".join(names)


class GuardConfig(Config):
    """The aggregate against the adapter that the run began with (METHOD.md section 8, `defense/guard.py`)."""

    enabled: bool = False
    """Whether an aggregated round can be rolled back. Needs restricted prompts with refusals, as level canary does."""
    slack: NonNegativeFloat = 0.01
    """Rise of the refusals' negative log-likelihood over the initial adapter's that may stay, nats per token. In three embedded
    worlds without attackers it was at most 0.010 (512 prompts, ten rounds)."""
    budget: NonNegativeFloat = 0.02
    """Sum over rounds of what is above `slack`, nats per token, that may be spent before a rollback."""


class DefenseConfig(Config):
    """Who counts, and how much."""

    level: Annotated[str, BeforeValidator(_joined)] = "shadow"
    """A level, or several: `live+canary`, in YAML also a list. A client weighs the least of what they say."""
    min_weight: float = Field(0.0, ge=0, le=1)
    """Lower bound of weights computed from valid evidence, applied after the skip gate."""
    skip_below: float = Field(0.2, ge=0, le=1)
    """A round whose mean weight is below this is skipped."""
    step: StepLevelConfig = StepLevelConfig()
    client: ClientLevelConfig = ClientLevelConfig()
    shadow: ShadowLevelConfig = ShadowLevelConfig()
    evidence: EvidenceLevelConfig = EvidenceLevelConfig()
    live: LiveLevelConfig = LiveLevelConfig()
    canary: CanaryLevelConfig = CanaryLevelConfig()
    guard: GuardConfig = GuardConfig()
    spectrum: SpectrumLevelConfig = SpectrumLevelConfig()
    consensus: ConsensusLevelConfig = ConsensusLevelConfig()
    zeno: ZenoLevelConfig = ZenoLevelConfig()

    @property
    def levels(self) -> tuple[LevelName, ...]:
        """The levels one by one."""
        return tuple(self.level.split("+"))


class AdmissionConfig(Config):
    """Bounds that an update must keep to be considered at all."""

    max_norm: PositiveFloat | None = None
    """Largest L2 norm of a client's delta. None: `norm_factor` x learning rate x steps x sqrt(number of values)."""
    norm_factor: PositiveFloat = 4.0
    """AdamW moves a value by about the learning rate per step, so an honest delta stays near factor 1."""
    value_factor: PositiveFloat | None = 2.02
    """No value of a delta may have moved further than this times what AdamW can do in so many steps, whatever the gradients
    (`adamw_reach`); an honest client cannot exceed factor 1, nor 2 when it trains at twice the rate that it was asked for.
    Bounds both factors, so it stops scaled updates and most that are ruinous in A and B alone. None: no such bound, for
    clients with another optimizer."""
    product_factor: PositiveFloat | None = 3.0
    """No module's B A may have moved further, in the Frobenius norm, than this times what a round moves it by where the values'
    signs are independent (`defense/products.py`): factors that stay within their bounds can conspire to move it up to
    sqrt(rank) times as far, at the asked rate. So 3 refuses no gradients of AdamW up to rank 9. Honest clients of the embedded
    world stay below 0.54 in ten rounds, 0.92 at twice the rate (seeds 0 to 5, IID or not, A frozen or not); signs agree the more
    the fewer the steps, and with a single one it is 1.2 and 2.4. None: no such bound, for clients with another optimizer."""


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


class FedAvgMConfig(Config):
    """Server momentum (Hsu, Qi and Brown 2019, arXiv 1909.06335)."""

    learning_rate: PositiveFloat = 1.0
    """eta; the paper's."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """beta; the paper tries 0 to 0.997, and 0.9 is what Reddi et al. compare with."""


class AdaptiveConfig(Config):
    """What the adaptive server optimizers share (Reddi et al., ICLR 2021, arXiv 2003.00295, algorithm 2)."""

    learning_rate: PositiveFloat = 1e-3
    """eta. The paper has no default, it searches the best for each task. Ours is OpenFedLLM's (arXiv 2402.06954), for LoRA at
    clients' learning rates near 5e-5. A value moves by up to about eta in a round, so eta should be near what clients move it
    by."""
    tau: PositiveFloat = 1e-3
    """How adaptive the steps are, the less the larger; the paper's for all its tasks. v starts from its square."""


class FedAdagradConfig(AdaptiveConfig):
    """FedAdagrad."""

    beta1: float = Field(0.0, ge=0, lt=1)
    """Decay of the momentum; the paper uses none."""


class FedYogiConfig(AdaptiveConfig):
    """FedYogi."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the momentum; the paper's."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment; the paper's."""


class FedAdamConfig(AdaptiveConfig):
    """FedAdam."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the momentum; the paper's."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment; the paper's."""


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
    optimizer: OptimizerName = "none"
    """What the server makes of the pseudo-gradient; `none`: the global adapter moves by it."""
    normalisation: Literal["weights", "samples"] = "weights"
    """What the sum of n w delta is divided by. `weights`: sum n w, the paper's, so that one client left of many takes a whole
    step. `samples`: sum n over the admitted clients, so that little trust makes a small step (METHOD.md section 8). What any
    other rule gives is multiplied by the same ratio, sum n w / sum n, before the server's optimizer sees it."""
    max_share: float = Field(1.0, gt=0, le=1)
    """Largest part of a round's sum n w that one client may have, and of the sum of w for rules that weigh by w; 1: no bound, the
    paper's. Below 1 the aggregator keeps the round's updates until all are there. Fewer clients of any weight than 1 / max_share
    have equal parts, whatever their weights; with `normalisation=samples` each then still has at most max_share, and what is
    missing makes the step smaller."""
    averaging: AveragingName = "factors"
    """How LoRA's factors are averaged: A and B apart, as the paper does; `ffa`: A stays frozen, clients train B only; `svd`: the
    best approximation of the mean of B A."""
    geometric_median: GeometricMedianConfig = GeometricMedianConfig()
    centered_clipping: CenteredClippingConfig = CenteredClippingConfig()
    foolsgold: FoolsGoldConfig = FoolsGoldConfig()
    dnc: DncConfig = DncConfig()
    flame: FlameConfig = FlameConfig()
    residual: ResidualConfig = ResidualConfig()
    lasa: LasaConfig = LasaConfig()
    fedavgm: FedAvgMConfig = FedAvgMConfig()
    fedadagrad: FedAdagradConfig = FedAdagradConfig()
    fedyogi: FedYogiConfig = FedYogiConfig()
    fedadam: FedAdamConfig = FedAdamConfig()

    @property
    def freezes_a(self) -> bool:
        """Whether nobody trains A."""
        return self.averaging == "ffa"

    @model_validator(mode="after")
    def _check_averaging(self) -> AggregationConfig:
        for key, value, plain in (
            ("rule", self.rule, "fedavg"),
            ("pre", self.pre, "none"),
            ("optimizer", self.optimizer, "none"),
        ):
            if self.averaging == "svd" and value != plain:
                raise ValueError(
                    f"averaging=svd averages the products B A, while {key}={value} works on A and B apart; "
                    f"set aggregation.{key}={plain}, or aggregation.averaging=factors or ffa"
                )
        if self.averaging == "svd" and self.normalisation != "weights":
            raise ValueError(
                f"averaging=svd is of rank r as it is, and normalisation={self.normalisation} would scale A and B apart; "
                "set aggregation.normalisation=weights, or aggregation.averaging=factors or ffa"
            )
        return self

    @model_validator(mode="after")
    def _check_f(self) -> AggregationConfig:
        for key, name in self._assuming():
            if self.f is None:
                raise ValueError(
                    f"{key}={name} needs f, the number of attackers assumed among the clients of a round; set aggregation.f"
                )
        return self

    def check(self, num_clients: int) -> None:
        """Raises ValueError when rule or pre-aggregation cannot bear f attackers among so many clients, or when `max_share` is
        less than an equal part."""
        if self.max_share * num_clients < 1:
            raise ValueError(
                f"aggregation.max_share={self.max_share:g} is less than an equal part of {num_clients} clients, so every client "
                f"would count alike, whatever its weight; set it to more than {1 / num_clients:.3g}, or to 1 for no bound"
            )
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
