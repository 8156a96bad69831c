"""Settings of the probe. No torch here: the command line reads them."""

from __future__ import annotations

from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from probe.classifiers import select
from probe.classifiers.base import ClassifierSpec
from probe.classifiers.boosted import BoostedSettings
from probe.classifiers.linear import LinearSettings
from probe.paths import UserPath

PAPER_THRESHOLD = 0.8
"""Decision threshold on P(malicious) (docs/method.md section 2)."""


class ProbeTraining(BaseModel, extra="forbid", frozen=True):
    """How a probe is fitted. The artefact keeps these settings, and a refresh fits the next version with them."""

    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Decision threshold on P(malicious); None: in a run the artefact's own, in training as `target_fpr` says."""
    classifier: str = "linear"
    """A `choice` in the table of `probe.classifiers`; linear is the paper's."""
    feature: str | None = None
    """None: the first of the classifier's; for linear first_layer_b, the paper's."""
    target_fpr: float | None = Field(default=None, gt=0, lt=1)
    """Share of benign held-out samples that may be flagged, which sets the threshold. None: linear keeps the paper's
    threshold of 0.8; 0.01 for the others, whose probabilities do not mean the same everywhere."""
    calibrate: bool | None = None
    """Map scores to probabilities on held-out families (Platt); None: where the classifier needs it."""
    folds: PositiveInt | None = None
    """1: a single split of `validation_share`, the paper's, which stops the fit early. More: so many fits hold out other
    families each, to calibrate and to measure on; they run all epochs, and the probe is then fitted to everything.
    None: 1 for linear; 4 for the others, which need calibration."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the clients, by family, that a single split holds out; early stopping watches it."""
    linear: LinearSettings = LinearSettings()
    xgboost: BoostedSettings = BoostedSettings()

    @model_validator(mode="after")
    def _check_choice(self) -> ProbeTraining:
        select(self.classifier, self.feature)
        return self

    @property
    def spec(self) -> ClassifierSpec:
        """The classifier that training fits."""
        return select(self.classifier, self.feature)

    @property
    def trained_feature(self) -> str:
        """The feature that training uses."""
        return self.feature or self.spec.features[0]


class ProbeConfig(ProbeTraining, frozen=True):
    """Which probe a run uses, how long it waits for it, and how it keeps it up to date; how `probe train` fits one."""

    path: UserPath | None = None
    """Folder of a probe artefact; None: the embedded world's."""
    timeout_s: PositiveFloat = 60
    """How long a round waits for scores after its last update arrived, and for the fit of a refreshed probe."""
    refresh_every: NonNegativeInt | None = None
    """Train reference clients from the current global adapter every so many rounds, for bounds and, where needed, a refit; 0:
    never. None: at level live in the first round and where a client is in doubt (docs/method.md, "Refresh"), never at others.
    Possible where the probe reads the real update."""
    refresh_clients: int = Field(default=8, ge=3)
    """Reference clients per class of a refresh; the fewer they are, the wider are the bounds that follow from them. 8 + 8 come
    from a study on the embedded world."""
    refresh_min_auc: float = Field(default=0.75, ge=0, le=1)
    """A refreshed probe replaces the old one only if it ranks this share of the pairs of a benign and a malicious held-out update
    rightly (the area under the ROC curve): half way from chance to all. Fits to a part of the few references score them, so the
    figure is below what the probe itself will reach."""
    calibration_store: UserPath | None = None
    """A sample store of other families to calibrate on; None: the families that the fits of a training hold out."""
