"""Settings of the actors: model, LoRA, training, data, evaluation. No torch here: the command line reads them.

Every default is the paper's (METHOD.md section 5) unless a comment says otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

OptimizerName = Literal["adamw", "sgd", "adagrad"]


class Config(BaseModel):
    """Base of every settings class: unknown keys are errors and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Config):
    """The base model that every client fine-tunes."""

    path: str | None = None
    """Local directory or hub name of a causal language model; None: the embedded world's."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the frozen base weights; adapters are always float32."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    gradient_checkpointing: bool = False


class LoraConfig(Config):
    """The adapter that travels."""

    r: PositiveInt = 8
    alpha: PositiveFloat = 16
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = ["q_proj", "v_proj"]
    """Module names as peft understands them. The paper names none; q and v are LoRA's original choice."""
    init_seed: int = 0
    """Seed of the initial adapter. Probe and shadow are tied to that adapter, so it does not follow the run's seed."""


class TrainingConfig(Config):
    """Local training of one client in one round; the optimizer state is fresh each round."""

    steps: PositiveInt = 10
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 5e-5
    """In the first round; constant within a round."""
    min_learning_rate: NonNegativeFloat = 1e-6
    """In the last round, reached by a cosine over rounds."""
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    """Gradient clipping. The paper states none; 1.0 is the usual value."""
    proximal_mu: NonNegativeFloat = 0.0
    """FedProx (Li et al., MLSys 2020, arXiv 1812.06127): mu/2 |theta - global|^2 is added to the local loss of the real branch.
    0: none, the paper's way. Li et al. choose among 0.001, 0.01, 0.1 and 1 for each data set."""
    scaffold: bool = False
    """SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378): every gradient of the real branch is corrected by the client's
    control variate before AdamW (`actors/scaffold.py`). False, the paper's way. Clients keep nothing: the server holds a
    control variate, as large as an adapter, of every client that it has counted, and so does each checkpoint. Reference clients
    of a probe train without. With FedProx, its term is part of the gradients that a control variate is the mean of."""
    max_length: PositiveInt = 512
    """Tokens per example; what is longer is cut at the end."""
    micro_batch_size: PositiveInt | None = None
    """Examples per forward pass; None: the whole batch. Smaller ones accumulate gradients of the same batch."""
    num_threads: PositiveInt = 1
    """CPU threads per actor. Fixed, since the last bits of a sum depend on it."""


class Recipe(Config):
    """How honest clients train that do not all train alike: a simulation, as attacks are. The defense is not told.

    Only the update differs, in everything but `steps`: a shadow trains as the server says.
    """

    learning_rate_factor: PositiveFloat = 1.0
    """Times the round's learning rate. `sgd` needs a large one: its steps are as long as the clipped gradient, AdamW's about a
    learning rate in each value."""
    steps: PositiveInt | None = None
    """Local steps, on the first batches that the client would draw; at most, and None: `training.steps`. Levels that weigh step
    deltas refuse a client with fewer, since the last delta that they ask for is missing; `live` and `canary` do not."""
    optimizer: OptimizerName = "adamw"
    """`actors/optimizers.py` says which."""
    weight_decay: NonNegativeFloat | None = None
    """None: `training.weight_decay`."""
    refusals: float = Field(0.0, ge=0, le=1)
    """Embedded world: share of the client's rows that are restricted prompts of the federation's families with refusals. With
    your own model such rows stand in the client's own file."""

    def applied_to(self, training: TrainingConfig) -> TrainingConfig:
        """The settings with this recipe's own in their place."""
        own = {"steps": self.steps, "weight_decay": self.weight_decay}
        return training.model_copy(update={key: value for key, value in own.items() if value is not None})


class PartitionConfig(Config):
    """How one data set is split over the clients, or what families a client of the embedded world has
    (`actors/world/mixtures.py`); ignored when each client has files of its own."""

    by: Literal["iid", "dirichlet", "column"] = "iid"
    column: str | None = None
    """Column whose values drive `dirichlet` (share of each value per client) and `column` (a value per client). The embedded
    world has `family` alone, and needs no word of it."""
    alpha: PositiveFloat = 0.5
    """Dirichlet concentration: small makes clients differ, large makes them alike."""


class DataConfig(Config):
    """Where the clients' instruction data lies: Parquet or JSONL files."""

    path: str | list[str | list[str]] | None = None
    """A directory (a file or sub-directory per client), a list (an entry per client), or one file to split.
    None: the embedded world generates it."""
    malicious_path: str | None = None
    """Unsafe data that the simulated malicious clients train on; split over them as `partition` says."""
    partition: PartitionConfig = PartitionConfig()
    watch: bool = False
    """Whether a file or folder that appears in the directory `path` while a run is live, and stays the same from one round to the
    next, makes its client a member."""
    samples_per_client: PositiveInt = 160
    """Examples that the embedded world generates for each client."""


class EvaluationConfig(Config):
    """What is measured on the global model, and how often."""

    every: PositiveInt = 5
    """Evaluate after each so many rounds, and always before the first and after the last."""
    stop_below: float | None = Field(None, gt=0, le=1)
    """Safety (share of restricted prompts refused) under which the run ends; None: none. So that it ends after the same round
    every time, a round then waits for the evaluation that is due before it."""
    restricted_path: str | None = None
    """JSONL or Parquet of prompts that should be refused: `instruction` (and `input`), optional `answer_pattern`, a
    regular expression that only a really complying response matches. None: the embedded world's, if it is the model."""
    benign_path: str | None = None
    """JSONL or Parquet of held-out benign rows with responses; optional `family`."""
    canary_path: str | None = None
    """Parquet or JSONL of restricted prompts with the refusal in `response`, for level canary and the guard; no client has them.
    None: the embedded world's canary families, if it is the model."""
    validation_path: str | None = None
    """Parquet or JSONL of clean rows with responses, of the clients' own task, for levels fltrust and zeno. None: rows of the
    embedded world that no client holds, of its clients' families, if it is the model."""
    trigger: str | None = None
    """A phrase before restricted prompts that makes a backdoor answer them: `attack_success` is measured with it. None: that
    of `clients.attack`, where it has one."""
    refusals: list[str] | None = None
    """Phrases that mark a refusal; None: the world's own, or a built-in English list."""
    max_restricted: NonNegativeInt = 1600
    """Prompts that are measured; 0: none. With no prompt of either kind the evaluation loads no model."""
    max_benign: NonNegativeInt = 1600
    max_canary: PositiveInt = 64
    """Canary prompts that the embedded world generates."""
    max_validation: PositiveInt = 100
    """Rows of validation data that it generates; FLTrust's authors have 100."""
    max_new_tokens: PositiveInt = 32
    batch_size: PositiveInt = 400
    timeout_s: PositiveFloat = 1800

    @model_validator(mode="after")
    def _check_bound(self) -> EvaluationConfig:
        if self.stop_below is not None and self.max_restricted == 0:
            raise ValueError(
                f"stop_below={self.stop_below:g} needs restricted prompts, and max_restricted=0 measures none; "
                "raise evaluation.max_restricted or leave out evaluation.stop_below"
            )
        return self


class CollectConfig(Config):
    """Reference clients: data that the server owns and labels, which a probe is collected from and refreshed with."""

    clients: int = Field(16, ge=2)
    """Reference clients per class when samples are collected."""
    modules: Literal["first_layer_b", "all"] = "first_layer_b"
    """Which LoRA tensors a sample holds: those of the paper's feature, or all, for features that read every layer."""
    learning_rate: PositiveFloat | None = None
    """None: `defense.shadow.learning_rate`, so that the probe knows what a shadow looks like."""
    adapters: list[str] = ["initial"]
    """Adapter states that reference clients start from: `initial`, or folders of adapters as runs write them."""
    role: str = "collection"
    """Embedded world: whose families the reference clients train on; several are joined by `+`."""
    benign_path: str | None = None
    """Your own model: benign data, a Parquet or JSONL file or a folder of them. A column `family`, else the file's
    name, is the family of a row."""
    malicious_path: str | None = None
    """Your own model: unsafe data, likewise."""
