"""Settings of the probe. No torch here: the command line reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

ClassifierName = Literal["linear", "xgboost"]
FeatureName = Literal["first_layer_b", "all_layers", "per_layer", "module_cosines"]

PAPER_THRESHOLD = 0.8
"""Decision threshold on P(malicious) (METHOD.md section 2)."""
_CALIBRATION_FOLDS = 4
_ONLY_CLASSIFIER: dict[FeatureName, ClassifierName] = {"per_layer": "linear", "module_cosines": "xgboost"}
"""Features that one classifier alone is fitted to; the others go with each."""


class Config(BaseModel):
    """Base of every settings class: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LinearRecipe(Config):
    """How the linear probe is fitted; the defaults are the paper's (METHOD.md section 2)."""

    learning_rate: PositiveFloat = 0.01
    weight_decay: NonNegativeFloat = 2.0
    batch_size: PositiveInt = 256
    max_epochs: PositiveInt = 100
    patience: PositiveInt = 15
    """Epochs without the validation loss falling by `min_improvement` after which the fit stops."""
    min_improvement: NonNegativeFloat = 1e-4
    max_grad_norm: PositiveFloat = 0.5
    seed: int = 0


class BoostedRecipe(Config):
    """How the trees are fitted. Depth 1 and 80 trees were the best of a study on the embedded world."""

    num_trees: PositiveInt = 80
    max_depth: PositiveInt = 1
    learning_rate: PositiveFloat = 0.3
    seed: int = 0


class ProbeConfig(Config):
    """Which probe a run uses and where its verdict lies; how `probe train` fits one."""

    path: str | None = None
    """Folder of a probe artefact; None: the embedded world's."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Decision threshold on P(malicious); None: in a run the artefact's own, in training as `target_fpr` says."""
    timeout_s: PositiveFloat = 60
    """How long a round waits for scores after its last update arrived, and for a refreshed probe to be fitted."""
    refresh_every: NonNegativeInt | None = None
    """Refit the probe on reference clients trained from the current global adapter every so many rounds; 0: never.
    None: every round at level live, never at the others. Possible where the probe reads the real update."""
    refresh_clients: int = Field(8, ge=2)
    """Reference clients per class of a refresh. A study on the embedded world found 8 + 8 (FEASIBILITY: live level)."""
    refresh_min_tpr: float = Field(0.6, ge=0, le=1)
    """A refreshed probe replaces the old one only if it flags at least this share of its held-out malicious updates. They
    are judged by fits that see half of the few references, so the figure is below what the probe itself will reach."""
    refresh_max_fpr: float = Field(0.1, ge=0, le=1)
    """And at most this share of its held-out benign updates."""
    classifier: ClassifierName = "linear"
    feature: FeatureName | None = None
    """None: first_layer_b (the paper) for linear, module_cosines for xgboost."""
    target_fpr: float | None = Field(None, gt=0, lt=1)
    """Share of benign held-out samples that may be flagged, which sets the threshold. None: the paper's threshold of 0.8
    for linear; 0.01 for xgboost and per_layer, whose probabilities do not mean the same everywhere."""
    calibrate: bool | None = None
    """Map scores to probabilities on held-out families (Platt). None: for xgboost only; per_layer calibrates each
    layer in any case."""
    calibration_store: str | None = None
    """A sample store of other families to calibrate on; None: the families that fits held out."""
    folds: PositiveInt | None = None
    """1: a single split of `validation_share`, the paper's, which stops the fit early. More: so many fits hold out other
    families each, to calibrate and to measure on; they run all epochs, and the probe is then fitted to everything.
    None: 1 for linear, 4 for xgboost and per_layer, which have to be calibrated."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the clients, by family, that a single split holds out; early stopping watches it."""
    linear: LinearRecipe = LinearRecipe()
    xgboost: BoostedRecipe = BoostedRecipe()

    @model_validator(mode="after")
    def _check_feature(self) -> ProbeConfig:
        fitting = _ONLY_CLASSIFIER.get(self.trained_feature, self.classifier)
        if self.classifier != fitting:
            raise ValueError(
                f"feature={self.feature} is fitted by classifier={fitting} alone, not by classifier={self.classifier}; "
                f"set probe.classifier={fitting}, or another probe.feature"
            )
        return self

    @property
    def num_folds(self) -> int:
        """Fits of a training."""
        if self.folds is not None:
            return self.folds
        return 1 if self.classifier == "linear" and self.trained_feature != "per_layer" else _CALIBRATION_FOLDS

    @property
    def trained_feature(self) -> FeatureName:
        """The feature that training uses."""
        return self.feature or ("module_cosines" if self.classifier == "xgboost" else "first_layer_b")
