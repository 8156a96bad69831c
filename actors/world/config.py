"""Settings of the embedded world. No torch here: the command line reads them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class BaseModelConfig(BaseModel):
    """Shape and pretraining recipe of a world's base model; the defaults make the shipped one (FEASIBILITY.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: PositiveInt = 96
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    vocabulary: PositiveInt = 960
    steps: PositiveInt = 1500
    batch_size: PositiveInt = 64
    learning_rate: float = 4e-3
    num_examples: PositiveInt = 48_000


class WorldConfig(BaseModel):
    """Which embedded world a run takes place in; ignored when `model.path` names a real model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0)
    """Seed of names, wordings, templates and of the families' roles. 0 is shipped; others are built once and kept."""
    path: str | None = None
    """Folder of a built world; None: the shipped one or the user's cache."""
    base: BaseModelConfig = BaseModelConfig()
    """Shape and recipe when the world is built."""
