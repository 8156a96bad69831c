"""Settings of the aggregation: one class for each rule that has any, and `AggregationConfig`, the section of the run's file.

No torch here: the command line reads them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from defense.optimizers import OPTIMIZERS, FedAdagradConfig, FedAdamConfig, FedAvgMConfig, FedYogiConfig
from defense.rules import PRE_AGGREGATIONS, RULES, Rule
from defense.settings import Settings, one_of

RuleName = Annotated[str, one_of(RULES)]
PreName = Annotated[str, one_of(PRE_AGGREGATIONS)]
OptimizerName = Annotated[str, one_of(OPTIMIZERS)]


class GeometricMedianConfig(Settings):
    """Smoothed Weiszfeld iteration (Pillutla, Kakade and Harchaoui 2022, arXiv 1912.13445)."""

    smoothing: PositiveFloat = 1e-6
    """nu, the smallest distance that an update's pull is divided by; the paper's."""
    tolerance: PositiveFloat = 1e-10
    """The iteration ends when no client's share changes by more than this part of it. Ours: the paper stops after some steps."""
    max_iterations: PositiveInt = 1000
    """The iteration ends here in any case."""


class CenteredClippingConfig(Settings):
    """Clipping around the previous aggregate (Karimireddy, He and Jaggi 2021, arXiv 2012.10333)."""

    radius: PositiveFloat | None = None
    """tau, an L2 norm in the units of the updates. None: the median distance of a round's updates from the centre. The
    authors' 100, and 10 without momentum in arXiv 2006.09365, are for gradients of image classifiers; the update of a LoRA
    is shorter (about 3 to 6 in the embedded world), and with such a radius nothing would ever be clipped."""
    iterations: PositiveInt = 1
    """L; the paper's."""


class FoolsGoldConfig(Settings):
    """Trust by dissimilarity of histories (Fung, Yoon and Beschastnikh 2020, arXiv 1808.04866)."""

    confidence: PositiveFloat = 1
    """kappa, how steeply trust falls with similarity; the paper's."""


class DncConfig(Settings):
    """Spectral outlier removal (Shejwalkar and Houmansadr, NDSS 2021)."""

    iterations: PositiveInt = 1
    """Subsamples; a client must be kept in each. Public implementations of the paper use 1 or 5."""
    coordinates: PositiveInt = 10_000
    """b, how many values a subsample has."""
    filtering: float = Field(default=1.0, gt=0, le=2)
    """c: a subsample drops c f clients, rounded down."""


class FlameConfig(Settings):
    """Clustering, clipping, noise (Nguyen et al., USENIX Security 2022, arXiv 2101.02281)."""

    noise: NonNegativeFloat = 0.001
    """lambda: the noise in each value has this standard deviation, times the clipping norm; 0: none. The paper's. Over d
    values the noise has noise x sqrt(d) times the norm of a typical update, which is more than 1 above a million values."""


class ResidualConfig(Settings):
    """Residual-based reweighting, IRLS (Fu, Xie, Li and Chen 2019, arXiv 1912.11464)."""

    confidence: PositiveFloat = 2
    """lambda, width of the interval in which a residual counts fully; the paper's."""
    threshold: float = Field(default=0.05, ge=0, lt=1)
    """A value trusted less than this is replaced by the regression line's. Safe-FedLLM's baseline; the authors' code has 0.1."""


class LasaConfig(Settings):
    """Sparsified, layer-wise filtering (Xu, Zhang and Hu, WACV 2025, arXiv 2409.01435)."""

    sparsity: float = Field(default=0.3, ge=0, lt=1)
    """Share of an update's values, the smallest, that is set to 0."""
    norm_radius: PositiveFloat = 1
    """lambda_n: how many standard deviations a tensor's norm may lie from the clients' median."""
    sign_radius: PositiveFloat = 1
    """lambda_s: the same for the purity of its signs."""


class AggregationConfig(Settings):
    """How the weighted updates become one."""

    rule: RuleName = "fedavg"
    pre: PreName = "none"
    """What happens to the updates before the rule: `nnm` replaces each by the mean of its nearest."""
    f: NonNegativeInt | None = None
    """Attackers among a round's clients that the operator assumes. Rules and pre-aggregations that assume attackers need it
    (`Rule.clients_needed` in `defense/rules/__init__.py`); the others do not use it."""
    optimizer: OptimizerName = "none"
    """What the server makes of the pseudo-gradient; `none`: the global adapter moves by it."""
    normalisation: Literal["weights", "samples"] = "weights"
    """What the sum of n w delta is divided by. `weights`: sum n w, the paper's, so that one client left of many takes a whole
    step. `samples`: sum n over the admitted clients, so that little trust makes a small step (docs/method.md section 8). The
    result of any other rule is multiplied by the same ratio, sum n w / sum n, before the server's optimizer sees it."""
    max_share: float = Field(default=1.0, gt=0, le=1)
    """Largest part of a round's sum n w that one client may have, and of the sum of w for rules that weigh by w; 1: no bound, the
    paper's. Below 1 the aggregator keeps the round's updates until all are there. If fewer clients than 1 / max_share have a
    weight, they have equal parts, whatever their weights; with `normalisation=samples` each then still has at most max_share, and
    the missing part makes the step smaller."""
    averaging: Literal["factors", "ffa", "svd"] = "factors"
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
        """Whether no client trains A."""
        return self.averaging == "ffa"

    @model_validator(mode="after")
    def _check_averaging(self) -> AggregationConfig:
        if self.averaging != "svd":
            return self
        for key, plain in (("rule", "fedavg"), ("pre", "none"), ("optimizer", "none")):
            if getattr(self, key) != plain:
                raise ValueError(
                    f"averaging=svd averages the products B A, while {key}={getattr(self, key)} works on A and B apart; "
                    f"set aggregation.{key}={plain}, or aggregation.averaging=factors or ffa"
                )
        if self.normalisation != "weights":
            raise ValueError(
                f"averaging=svd is of rank r as it is, and normalisation={self.normalisation} would scale A and B apart; "
                "set aggregation.normalisation=weights, or aggregation.averaging=factors or ffa"
            )
        return self

    @model_validator(mode="after")
    def _check_f(self) -> AggregationConfig:
        if self.f is None and (assuming := self._assuming()):
            raise ValueError(
                f"{assuming[0][0]} needs f, the number of attackers assumed among the clients of a round; set aggregation.f"
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
        for setting, rule in self._assuming():
            rule.check(f"aggregation.{setting}", self.f or 0, num_clients)

    def assumed_attackers(self, num_admitted: int) -> int | None:
        """f' = f, or as many as so few admitted clients bear; None where neither rule nor pre-aggregation assumes any."""
        bears = [rule.most_attackers(num_admitted) for _, rule in self._assuming()]
        return min(self.f or 0, *bears) if bears else None

    def _assuming(self) -> list[tuple[str, Rule]]:
        """Rule and pre-aggregation where they assume attackers, each after its setting."""
        chosen = [(f"rule={self.rule}", RULES[self.rule]), (f"pre={self.pre}", PRE_AGGREGATIONS[self.pre])]
        return [(setting, rule) for setting, rule in chosen if rule.assumes_attackers]
