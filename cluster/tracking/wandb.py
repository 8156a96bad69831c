"""Weights & Biases: a run in the project WANDB_PROJECT (default: safe-fedllm), under WANDB_DIR or the run directory.

WANDB_MODE=offline writes there only; `wandb sync` sends it later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from cluster.tracking.figures import Figures
from cluster.tracking.tracker import TrackedRun

_PROJECT = "safe-fedllm"
_AXIS = "rounds_done"


class WeightsAndBiases:
    """A run beside any other of the process. Its axis is `rounds_done`: evaluations come later than the rounds after them."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            dir=os.environ.get("WANDB_DIR") or str(run.path),
            id=run.run_id,
            name=run.name,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        self._run.define_metric("*", step_metric=_AXIS)

    def set_parameters(self, values: Mapping[str, object]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def log(self, figures: Figures, rounds_done: int) -> None:
        self._run.log({_AXIS: rounds_done, **figures})

    def keep_adapter(self, folder: Path) -> None:
        artefact = wandb.Artifact(f"adapter-{self._run.id}", "model")
        artefact.add_dir(str(folder))
        self._run.log_artifact(artefact)

    def close(self, *, is_whole: bool) -> None:
        self._run.finish(exit_code=0 if is_whole else 1)
