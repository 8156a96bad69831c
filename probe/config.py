"""Settings of the probe. No torch here: the command line reads them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt


class Config(BaseModel):
    """Base of every settings class: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProbeConfig(Config):
    """Which probe a run uses, and where its verdict lies."""

    path: str | None = None
    """Folder of a probe artefact; None: the embedded world's."""
    threshold: float | None = Field(None, gt=0, lt=1)
    """Decision threshold on P(malicious); None: the artefact's own (the paper's is 0.8)."""
    timeout_s: PositiveFloat = 60
    """How long a round waits for scores after its last update arrived."""


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
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the clients that are held out for early stopping."""
    seed: int = 0
