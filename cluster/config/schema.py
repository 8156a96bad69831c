"""The run's configuration: composed from every part's own settings, checked across parts. No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from actors.config import (
    CollectConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    Recipe,
    TrainingConfig,
)
from actors.world.config import WorldConfig
from defense.attacks import ATTACKS
from defense.attacks.alie_distance import largest_z
from defense.attacks.config import AttackConfig, AttackName
from defense.config import AdmissionConfig, AggregationConfig, DefenseConfig
from defense.levels import probed_sources
from probe.config import ProbeConfig

FAMILY = "family"
"""The one column by which the embedded world's data can be partitioned."""


class ClientsConfig(Config):
    """Who takes part. The paper: 20 clients a round."""

    count: PositiveInt = 20
    malicious: Annotated[int, Field(ge=0)] = 0
    """How many of them are simulated attackers; which ones is a seeded draw that only evaluation knows."""
    attack: AttackName = "unaligned"
    """What the attackers do; the paper's train on unaligned data (`defense/attacks/__init__.py` has the list)."""
    exclude_malicious: bool = False
    """Whether the attackers among a round's clients are left out of it, as a filter that knows the truth would: the upper bound
    of an experiment, for comparison only. The others keep their data and random streams, and no level is told."""
    recipes: list[Recipe] = []
    """How honest clients train that differ, a simulation as attacks are: they take turns through the list, in order of id.
    Empty: all train alike. Attackers, and the server's reference clients, train as `training` says."""
    per_round: PositiveInt | None = None
    """Clients sampled for each round; None: all."""
    min_updates: PositiveInt | None = None
    """Admitted updates without which a round is not committed; None: more than half of the round's clients."""
    timeout_s: PositiveFloat = 1800
    """How long one client may train in one round before it is dropped from the round."""
    on_client_loss: Literal["drop", "retry_round"] = "drop"
    """What the death of a client's actor or node costs: its part in the round, or the round is begun again, so that the
    outcome is that of a run in which nothing died."""

    @property
    def clients_per_round(self) -> int:
        return self.per_round or self.count

    @property
    def quorum(self) -> int:
        return self.quorum_of(self.clients_per_round)

    def quorum_of(self, num_clients: int) -> int:
        """Admitted updates that a round of so many clients needs."""
        return self.min_updates or num_clients // 2 + 1


class ClusterConfig(Config):
    """Where the actors run."""

    address: str | None = None
    """Ray cluster, `HOST:PORT` or `auto`; None: the one in RAY_ADDRESS (inside a Ray job), else a local one."""
    client_actors: PositiveInt | None = None
    """Client actors; clients share them when there are more clients. None: one per GPU, or per CPU without GPUs."""
    clients_per_actor: PositiveInt | None = None
    """Most clients that share an actor in a round; those for whom there is no room wait as pending. None: no limit."""
    gpus_per_client: PositiveFloat | None = None
    """GPU (fraction) that each client actor waits for; None: what the evaluation leaves of a GPU, where there are GPUs."""
    server_label: Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s]+$")] | None = None
    """Ray node label KEY=VALUE of the server's nodes: aggregator, probe and reference clients run there, clients do not."""
    start_timeout_s: PositiveFloat = 300
    """How long actors may take to start and load the base model."""
    call_timeout_s: PositiveFloat = 300
    """How long one call to the aggregator may take."""
    round_attempts: PositiveInt = 5
    """How often a round is tried when actors die in it."""


class CheckpointConfig(Config):
    """What is kept of committed rounds, so that a killed run goes on (`safe-fedllm run --resume DIR`)."""

    path: str | None = None
    """Directory or URI (s3://bucket/runs, any that pyarrow.fs reads), to which the run's name is appended; None: `checkpoints`
    in the run directory."""
    keep: PositiveInt = 2
    """How many of the newest stay."""
    every: PositiveInt = 1
    """Rounds from one checkpoint to the next; the last round always has one."""


class RealignmentConfig(Config):
    """Fine-tuning of the final adapter by the server, on data of its own: restricted prompts with refusals, and benign rows.

    The post-hoc defense of Ye et al. (2024, arXiv 2406.10630), which repairs after the rounds what the levels prevent in them.
    What is not set here is as in `training`. Rate and mixture are ours, from world 0: benign rows are not of the clients' tasks
    there, and with half of them, or more than 20 steps, the adapter forgets those; at the first round's rate it does in ten.
    """

    steps: NonNegativeInt = 0
    """Optimizer steps after the last round; 0: none."""
    learning_rate: PositiveFloat | None = None
    """Constant; None: `training.min_learning_rate`, that of the last round."""
    samples: PositiveInt = 640
    """Examples that the steps are drawn from. Embedded world: of families that neither the federation nor the probe's collection
    has. Your own model: rows of `evaluation.canary_path` and `collect.benign_path`, again and again where there are too few."""
    refusal_share: float = Field(0.8, ge=0, le=1)
    """Share of them that are refused prompts."""


class RunConfig(Config):
    """Everything about one run. Defaults are the paper's (METHOD.md)."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """By which other sessions find the run while it is live; None: the name of its directory."""
    seed: Annotated[int, Field(ge=0)] = 0
    rounds: PositiveInt = 25
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    world: WorldConfig = WorldConfig()
    clients: ClientsConfig = ClientsConfig()
    attack: AttackConfig = AttackConfig()
    training: TrainingConfig = TrainingConfig()
    collect: CollectConfig = CollectConfig()
    probe: ProbeConfig = ProbeConfig()
    defense: DefenseConfig = DefenseConfig()
    aggregation: AggregationConfig = AggregationConfig()
    admission: AdmissionConfig = AdmissionConfig()
    realignment: RealignmentConfig = RealignmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded world is the model and the data."""
        return self.model.path is None

    @model_validator(mode="after")
    def _check_clients(self) -> RunConfig:
        clients = self.clients
        if clients.malicious > clients.count:
            raise ValueError(f"clients.malicious={clients.malicious} is more than clients.count={clients.count}")
        if clients.clients_per_round > clients.count:
            raise ValueError(f"clients.per_round={clients.per_round} is more than clients.count={clients.count}")
        if clients.quorum > clients.clients_per_round:
            raise ValueError(
                f"clients.min_updates={clients.min_updates} is more than the {clients.clients_per_round} clients of a round, "
                "so no round could ever be committed"
            )
        least, honest = clients.min_updates or 1, clients.count - clients.malicious
        if clients.exclude_malicious and least > honest:
            raise ValueError(
                f"clients.exclude_malicious=true leaves {honest} of clients.count={clients.count}, and a round needs {least}; "
                f"lower clients.malicious={clients.malicious}"
                + (f" or clients.min_updates={least}" if clients.min_updates else "")
            )
        return self

    @property
    def first_attack_round(self) -> int:
        """The round, counted from 0, from which sleepers attack; 0 for all others."""
        if self.clients.attack != "sleeper":
            return 0
        chosen = self.attack.sleeper.from_round
        return self.rounds // 2 if chosen is None else chosen

    @model_validator(mode="after")
    def _check_attack(self) -> RunConfig:
        name, malicious = self.clients.attack, self.clients.malicious
        if 0 < malicious < ATTACKS[name].least:
            raise ValueError(
                f"clients.attack={name} is made by at least {ATTACKS[name].least} attackers together; "
                f"set clients.malicious={ATTACKS[name].least} or more"
            )
        n, z = self.clients.clients_per_round, self.attack.alie.z
        if name == "alie" and malicious and z is None and largest_z(n, min(malicious, n)) == 0:
            raise ValueError(
                f"clients.attack=alie with clients.malicious={malicious} of {n} clients a round is no attack: its own formula "
                "sends the mean; set attack.alie.z, or another number of attackers"
            )
        if malicious and self.first_attack_round >= self.rounds:
            raise ValueError(
                f"attack.sleeper.from_round={self.first_attack_round} is never reached in rounds={self.rounds}; "
                f"set it to at most {self.rounds - 1}"
            )
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> RunConfig:
        if self.is_embedded and self.data.path is not None:
            raise ValueError("data.path is set but model.path is not: the embedded world brings its own data; set model.path")
        if not self.is_embedded and self.data.path is None:
            raise ValueError("model.path is set but data.path is not: name the clients' Parquet or JSONL files in data.path")
        needs_unsafe = self.clients.malicious and ATTACKS[self.clients.attack].needs_unsafe
        if not self.is_embedded and needs_unsafe and self.data.malicious_path is None:
            raise ValueError(
                f"clients.malicious={self.clients.malicious} simulates attackers on your own model; "
                "name their unsafe data in data.malicious_path, or set clients.malicious=0"
            )
        if self.data.watch and (self.is_embedded or not isinstance(self.data.path, str)):
            raise ValueError("data.watch=true needs a directory in data.path, with a file or folder per client")
        if self.data.watch and self.clients.malicious:
            raise ValueError(f"data.watch=true takes clients as they are; clients.malicious={self.clients.malicious} should be 0")
        return self

    @model_validator(mode="after")
    def _check_bound(self) -> RunConfig:
        bound = self.evaluation.stop_below
        if bound is not None and not self.is_embedded and self.evaluation.restricted_path is None:
            raise ValueError(
                f"evaluation.stop_below={bound:g} needs restricted prompts: for model.path={self.model.path} name a Parquet or "
                "JSONL file of them in evaluation.restricted_path"
            )
        return self

    @model_validator(mode="after")
    def _check_partition(self) -> RunConfig:
        partition = self.data.partition
        if self.is_embedded and partition.column not in (None, FAMILY):
            raise ValueError(
                f"data.partition.column={partition.column} is no column of the embedded world; "
                f"it is always partitioned by {FAMILY}, so leave the key out"
            )
        if not self.is_embedded and partition.by != "iid" and partition.column is None:
            raise ValueError(f"data.partition.by={partition.by} needs data.partition.column")
        return self

    @model_validator(mode="after")
    def _check_recipes(self) -> RunConfig:
        for number, recipe in enumerate(self.clients.recipes):
            key, most = f"clients.recipes.{number}", self.training.steps
            if recipe.steps is not None and recipe.steps > most:
                raise ValueError(f"{key}.steps={recipe.steps} is more than training.steps={most}; set it to at most {most}")
            if recipe.refusals and not self.is_embedded:
                raise ValueError(
                    f"{key}.refusals={recipe.refusals:g} is made by the embedded world; for model.path={self.model.path} put "
                    "restricted prompts with refusals into the client's own file in data.path and set it to 0"
                )
        return self

    @property
    def refresh_every(self) -> int:
        """Rounds from one refresh of the probe to the next; 0: never."""
        if self.probe.refresh_every is None:
            return 1 if "live" in self.defense.levels else 0
        return self.probe.refresh_every

    @model_validator(mode="after")
    def _check_refresh(self) -> RunConfig:
        if self.refresh_every and probed_sources(self.defense) != {"update"}:
            raise ValueError(
                f"probe.refresh_every={self.refresh_every} fits defense.level=live only: at level {self.defense.level} the probe "
                "scores while the clients train, before it can be refitted; set probe.refresh_every=0 or defense.level=live"
            )
        return self

    @model_validator(mode="after")
    def _check_training(self) -> RunConfig:
        training = self.training
        if training.min_learning_rate > training.learning_rate:
            raise ValueError(
                f"training.min_learning_rate={training.min_learning_rate:g} is above "
                f"training.learning_rate={training.learning_rate:g}; lower it"
            )
        if self.realignment.steps and not (self.realignment.learning_rate or training.min_learning_rate):
            raise ValueError(
                f"realignment.steps={self.realignment.steps} would change nothing at training.min_learning_rate=0; set "
                "realignment.learning_rate"
            )
        return self

    @model_validator(mode="after")
    def _check_spectrum(self) -> RunConfig:
        if "spectrum" in self.defense.levels and self.lora.r == 1:
            raise ValueError(
                f"defense.level={self.defense.level}: spectrum reads how an update spreads over the directions of a factor, "
                f"and lora.r={self.lora.r} leaves it one; raise lora.r or leave out spectrum"
            )
        return self

    @model_validator(mode="after")
    def _check_aggregation(self) -> RunConfig:
        self.aggregation.check(self.clients.clients_per_round)
        return self

    def learning_rate(self, round_index: int) -> float:
        """Learning rate of a round: a cosine from the first to the last round (METHOD.md section 5)."""
        first, last = self.training.learning_rate, self.training.min_learning_rate
        progress = round_index / max(1, self.rounds - 1)
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
