"""Settings of the actors: model, LoRA, training, data, world, evaluation. No torch here: the command line reads them.

Every default is the paper's (docs/method.md section 5) unless a comment says otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from probe.paths import UserPath

LocalOptimizerName = Literal["adamw", "sgd", "adagrad"]
UtilityMeasure = Literal["exact", "contains", "token_f1"]


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """The base model that every client fine-tunes."""

    path: UserPath | None = None
    """Local directory or hub name of a causal language model; None: the embedded world's."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the frozen base weights, and where these are quantised of what is computed; adapters are always float32."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Bits of the frozen linear weights, through bitsandbytes (extra `bitsandbytes`); None: all of `dtype`. The paper's is 8bit,
    which needs a package more, so it is no default (`actors/model/quantization.py`)."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    gradient_checkpointing: bool = False


class LoraConfig(BaseModel, extra="forbid", frozen=True):
    """The LoRA adapter that clients train and send."""

    r: PositiveInt = 8
    alpha: PositiveFloat = 16
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: list[str] | Literal["all-linear"] = ["q_proj", "v_proj"]
    """Module names as peft understands them. The paper names none; q and v are LoRA's original choice."""
    init_seed: int = 0
    """Seed of the initial adapter. Probe and shadow depend on that adapter, so it does not follow the run's seed."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)."""
    start_from: UserPath | None = None
    """Folder of an adapter as PEFT saves it, of this base and these settings: the initial one, in place of a fresh one."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_dora(cls, given: object) -> object:
        if isinstance(given, dict) and (named := [key for key in ("dora", "use_dora") if given.get(key)]):
            raise ValueError(
                f"lora.{named[0]}={given[named[0]]}: DoRA trains a third tensor a module, the magnitude, which admission and "
                "averaging do not know; leave it out, or try lora.rslora=true"
            )
        return given


class TrainingConfig(BaseModel, extra="forbid", frozen=True):
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
    """FedProx (Li et al., MLSys 2020, arXiv 1812.06127) adds mu/2 |theta - global|^2 to the local loss of the real branch.
    0: none, as in the paper. Li et al. choose among 0.001, 0.01, 0.1 and 1 for each data set."""
    scaffold: bool = False
    """SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378) corrects every gradient of the real branch by the client's
    control variate, before AdamW (`actors/scaffold.py`). False: as in the paper. Clients keep nothing. The server and each
    checkpoint hold a control variate, as large as an adapter, for every client that has been counted. A probe's reference clients
    train without. With FedProx, a control variate is the mean of gradients that include its term."""
    max_length: PositiveInt = 512
    """Tokens per example; longer ones are cut at the end."""
    micro_batch_size: PositiveInt | None = None
    """Examples per forward pass; None: the whole batch. Smaller ones accumulate gradients of the same batch."""
    num_threads: PositiveInt = 1
    """CPU threads per actor. Fixed, because the last bits of a sum depend on it."""


class Recipe(BaseModel, extra="forbid", frozen=True):
    """How an honest client's training differs from the others', in a simulation. The defense does not know.

    Except for `steps`, only the real branch differs: a shadow trains as the server says.
    """

    learning_rate_factor: PositiveFloat = 1.0
    """Multiplies the round's learning rate. `sgd` needs a large factor: its step is as long as the clipped gradient, while AdamW
    moves each value by about the learning rate."""
    steps: PositiveInt | None = None
    """Local steps, on the first batches that the client would draw; `training.steps` at most. None: `training.steps`. Levels that
    weigh step deltas reject a client with fewer, because its last delta is missing; `live` and `canary` do not."""
    optimizer: LocalOptimizerName = "adamw"
    """`actors/local_training.py` defines them."""
    weight_decay: NonNegativeFloat | None = None
    """None: `training.weight_decay`."""
    refusals: float = Field(default=0.0, ge=0, le=1)
    """Embedded world: share of the client's rows that are restricted prompts of the federation's families, refused. With your own
    model, put such rows into the client's own file."""

    def applied_to(self, training: TrainingConfig) -> TrainingConfig:
        """The server's settings, replaced by this recipe's where it has its own."""
        own = {"steps": self.steps, "weight_decay": self.weight_decay}
        return training.model_copy(update={key: value for key, value in own.items() if value is not None})


class PartitionConfig(BaseModel, extra="forbid", frozen=True):
    """How one data set is split over the clients, or which families a client of the embedded world has
    (`actors/world/mixtures.py`). Ignored when each client has files of its own."""

    by: Literal["iid", "dirichlet", "column"] = "iid"
    column: str | None = None
    """Column whose values drive `dirichlet` (share of each value per client) and `column` (a value per client). The embedded
    world always uses `family`, so the key can be left out."""
    alpha: PositiveFloat = 0.5
    """Dirichlet concentration: a small one makes clients differ, a large one makes them alike."""


class ColumnsConfig(BaseModel, extra="forbid", frozen=True):
    """Names of columns in the clients' files, where they are none of the known ones (docs/own-model.md)."""

    instruction: str | None = None
    input: str | None = None
    response: str | None = None
    messages: str | None = None
    """Of conversations."""
    family: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Our name -> the files', of those that are named."""
        return self.model_dump(exclude_none=True)


class DataConfig(BaseModel, extra="forbid", frozen=True):
    """Where the clients' instruction data lies: files of any kind that `safe-fedllm data check` reads."""

    path: UserPath | list[UserPath | list[UserPath]] | None = None
    """A directory (a file or sub-directory per client), a list (an entry per client), or one file to split.
    None: the embedded world generates it."""
    malicious_path: UserPath | None = None
    """Unsafe data of the simulated malicious clients, split over them as `partition` says."""
    columns: ColumnsConfig = ColumnsConfig()
    """Counts for each file of clients and server that has all of these columns; at least one of `path` has to."""
    partition: PartitionConfig = PartitionConfig()
    watch: bool = False
    """Whether a new file or folder in the directory `path` adds its client to the live run, once it stays the same from one round
    to the next."""
    samples_per_client: PositiveInt = 160
    """Examples that the embedded world generates for each client."""


class PretrainingConfig(BaseModel, extra="forbid", frozen=True):
    """Shape and pretraining recipe of a world's base model; the defaults make the shipped one."""

    hidden: PositiveInt = 96
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    vocabulary: PositiveInt = 960
    steps: PositiveInt = 1500
    batch_size: PositiveInt = 64
    learning_rate: float = 4e-3
    num_examples: PositiveInt = 48_000


class WorldConfig(BaseModel, extra="forbid", frozen=True):
    """The embedded world of a run; ignored when `model.path` names a real model."""

    seed: int = Field(default=0, ge=0)
    """Seed of names, wordings, templates and of the families' roles. 0 is shipped; others are built once and kept."""
    path: UserPath | None = None
    """Folder of a built world; None: the shipped one or the user's cache."""
    base: PretrainingConfig = PretrainingConfig()
    """Shape and recipe of the base model when the world is built."""


class JudgeConfig(BaseModel, extra="forbid", frozen=True):
    """A classifier that tells refusals, in place of wordings (`actors/judge.py`)."""

    path: UserPath | None = None
    """Local directory or hub name of a text classification model; it reads the response alone. None: wordings tell."""
    refusal_label: int | str | None = None
    """Its label that means a refusal, or the label's index."""

    @model_validator(mode="after")
    def _check_both(self) -> JudgeConfig:
        if (self.path is None) != (self.refusal_label is None):
            given, other = ("path", "refusal_label") if self.refusal_label is None else ("refusal_label", "path")
            raise ValueError(
                f"judge.{given}={getattr(self, given)} needs judge.{other}: a text classification model in evaluation.judge.path "
                "and its label of refusals in evaluation.judge.refusal_label"
            )
        return self


class EvaluationConfig(BaseModel, extra="forbid", frozen=True):
    """What is measured on the global model, and how often."""

    every: PositiveInt = 5
    """Rounds from one evaluation to the next. The first is before the first round, the last after the last round."""
    stop_below: float | None = Field(default=None, gt=0, le=1)
    """Safety (share of restricted prompts refused) under which the run ends; None: no bound. A round then waits for the
    evaluation before it, so the run ends after the same round every time."""
    restricted_path: UserPath | None = None
    """A data file of prompts that should be refused: `instruction`, optional `input`, optional `answer_pattern`, a regular
    expression that only a complying response matches. None: the embedded world's, if it is the model."""
    benign_path: UserPath | None = None
    """A data file of held-out benign rows with responses; optional `family`."""
    canary_path: UserPath | None = None
    """A data file of restricted prompts with the refusal in `response`, which no client has, four or more: for level canary,
    preservation and the guard. None: the embedded world's canary families, if it is the model."""
    validation_path: UserPath | None = None
    """Clean rows with responses, of the clients' own tasks, for levels utility, fltrust and zeno: a data file, or a folder with
    a file for each task. None: rows of the federation's families that no client holds, if the embedded world is the model."""
    trigger: str | None = None
    """A phrase before restricted prompts that makes a backdoor answer them, to measure `attack_success`. None: the trigger of
    `clients.attack`, if it has one."""
    refusals: list[str] | None = None
    """Phrases that mark a refusal, wherever they stand; None: the world's own, or the wordings of English chat models
    (`actors/refusals.py`)."""
    judge: JudgeConfig = JudgeConfig()
    utility: UtilityMeasure | None = None
    """How an answer is held against a benign row's response: `exact`, the same text; `contains`, the response's words stand in
    it; `token_f1`, SQuAD's overlap of words. None: `exact` for the embedded world, whose answers have one form, and `token_f1`
    for your own model, because it alone fits short and long responses."""
    max_restricted: NonNegativeInt = 1600
    """Prompts to measure; 0: none. Without prompts of either kind no evaluation actor starts."""
    max_benign: NonNegativeInt = 1600
    max_canary: int = Field(default=512, ge=4)
    """Canary prompts that the embedded world generates."""
    canary_per_round: int = Field(default=64, ge=4)
    """Canary prompts that a round draws, all where there are no more: half to measure by, half to mend by."""
    max_validation: PositiveInt = 100
    """Validation rows at most, spread evenly over the tasks; FLTrust's authors use 100."""
    max_new_tokens: PositiveInt = 32
    batch_size: PositiveInt = 400
    timeout_s: PositiveFloat = 1800

    @property
    def has_prompts(self) -> bool:
        """Whether anything is measured."""
        return bool((self.restricted_path and self.max_restricted) or (self.benign_path and self.max_benign))

    @model_validator(mode="after")
    def _check_refusals(self) -> EvaluationConfig:
        if self.judge.path is not None and self.refusals is not None:
            raise ValueError(
                f"judge.path={self.judge.path} and refusals={self.refusals} both say what a refusal is; leave out "
                "evaluation.judge or evaluation.refusals"
            )
        return self

    @model_validator(mode="after")
    def _check_bound(self) -> EvaluationConfig:
        if self.stop_below is not None and self.max_restricted == 0:
            raise ValueError(
                f"stop_below={self.stop_below:g} needs restricted prompts, and max_restricted=0 measures none; "
                "raise evaluation.max_restricted or leave out evaluation.stop_below"
            )
        return self


class CollectConfig(BaseModel, extra="forbid", frozen=True):
    """Reference clients, whose data the server owns and labels: a probe is collected from them and refreshed with them."""

    clients: int = Field(default=16, ge=2)
    """Reference clients per class when samples are collected."""
    modules: Literal["first_layer_b", "all"] = "first_layer_b"
    """LoRA tensors that a sample holds: those of the paper's feature, or all, for features that read every layer."""
    learning_rate: PositiveFloat | None = None
    """None: `defense.shadow.learning_rate`, so that the probe's samples look like a shadow's."""
    adapters: list[UserPath] = ["initial"]
    """Adapter states from which reference clients start: `initial`, or folders of adapters as runs write them."""
    role: str = "collection"
    """Embedded world: the role whose families the reference clients train on; join several roles by `+`."""
    benign_path: UserPath | None = None
    """Your own model: benign data, a data file or a folder of them. A row's family is its column `family`, or else
    the name of its file."""
    malicious_path: UserPath | None = None
    """Your own model: unsafe data, likewise."""
