"""The run's configuration: every part's settings, those that only a run has, and the rules that span parts. No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from actors.config import (
    CollectConfig,
    DataConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    Recipe,
    TrainingConfig,
    UtilityMeasure,
    WorldConfig,
)
from defense.admission.settings import AdmissionConfig
from defense.attacks import ATTACKS
from defense.attacks.config import AttackConfig, AttackName
from defense.config import DefenseConfig
from defense.levels import probed_signals
from defense.rules.config import AggregationConfig
from probe.config import ProbeConfig
from probe.paths import UserPath

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
_FAMILY = "family"
"""The only column by which the embedded world's data can be partitioned."""


class ClientsConfig(BaseModel, extra="forbid", frozen=True):
    """Which clients take part. The paper: 20 clients a round."""

    count: PositiveInt = 20
    malicious: Annotated[int, Field(ge=0)] = 0
    """How many of them are simulated attackers; a seeded draw, which only evaluation knows, says which."""
    attack: AttackName = "unaligned"
    """How the attackers attack (`defense/attacks/__init__.py` has the list); the paper's train on unaligned data."""
    exclude_malicious: bool = False
    """Whether the attackers among a round's clients are excluded from it, as by a filter that knows the truth: the upper bound of
    an experiment, for comparison only. The others keep their data and random streams, and no level knows."""
    recipes: list[Recipe] = []
    """Honest clients whose training differs, a simulation as attacks are: they take turns through the list, in order of id.
    Empty: all train alike. Attackers, and the server's reference clients, train as `training` says."""
    per_round: PositiveInt | None = None
    """Clients sampled for each round; None: all."""
    min_updates: PositiveInt | None = None
    """Admitted updates that a round needs to be committed; None: more than half of the round's clients."""
    timeout_s: PositiveFloat = 1800
    """How long one client may train in one round before it is dropped from the round."""
    on_client_loss: Literal["drop", "retry_round"] = "drop"
    """What happens when a client's actor or node dies. `drop`: the client misses the round. `retry_round`: the round begins
    again, so that the outcome is that of a run in which nothing died."""

    @property
    def clients_per_round(self) -> int:
        return self.per_round or self.count

    @property
    def quorum(self) -> int:
        return self.quorum_of(self.clients_per_round)

    def quorum_of(self, num_clients: int) -> int:
        """Admitted updates that a round of `num_clients` clients needs."""
        return self.min_updates or num_clients // 2 + 1


class ClusterConfig(BaseModel, extra="forbid", frozen=True):
    """Where the actors run."""

    address: str | None = None
    """Ray cluster, `HOST:PORT` or `auto`; None: the one in RAY_ADDRESS (inside a Ray job), else a local one."""
    client_actors: PositiveInt | None = None
    """Client actors; clients share them when there are more clients. None: one per GPU, or per CPU without GPUs."""
    clients_per_actor: PositiveInt | None = None
    """Most clients that share an actor in a round; clients without room wait as pending. None: no limit."""
    gpus_per_client: PositiveFloat | None = None
    """GPU (fraction) that each client actor asks for; None: what the evaluation leaves of a GPU, where there are GPUs."""
    server_label: Annotated[str, Field(pattern=r"^[^=\s]+=[^=\s]+$")] | None = None
    """Ray node label KEY=VALUE of the server's nodes: aggregator, probe and reference clients run there, clients do not."""
    start_timeout_s: PositiveFloat = 300
    """How long actors may take to start and load the base model."""
    call_timeout_s: PositiveFloat = 300
    """How long one call to the aggregator may take."""
    round_attempts: PositiveInt = 5
    """How often a round is tried when actors die in it."""


class CheckpointConfig(BaseModel, extra="forbid", frozen=True):
    """Checkpoints of committed rounds, from which a killed run resumes (`safe-fedllm run --resume DIR`)."""

    path: UserPath | None = None
    """Directory or URI (s3://bucket/runs, any that pyarrow.fs reads), to which the run's name is appended; None: `checkpoints`
    in the run directory."""
    keep: PositiveInt = 2
    """How many of the newest are kept."""
    every: PositiveInt = 1
    """Rounds from one checkpoint to the next; the last round always has one."""


class GatewayConfig(BaseModel, extra="forbid", frozen=True):
    """Clients outside the cluster, which train on machines of their own and are reached by HTTPS (docs/gateway.md)."""

    enabled: bool = False
    clients: list[str] = []
    """Ids of the clients, among those of `clients.count`, that participants outside the cluster train; each is enrolled with
    `safe-fedllm enroll ID`. The server has no data of theirs."""
    host: str = "127.0.0.1"
    """Address to listen on, of the machine where the run's driver is."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    address: str | None = None
    """Host name or address under which participants reach the gateway, and which the certificate names; None: `gateway.host`."""
    folder: UserPath = "gateway"
    """Where enrolments and a certificate of our own lie; runs can share it."""
    certificate: UserPath | None = None
    """TLS certificate, PEM, likewise `gateway.key`; None: one of our own, that `safe-fedllm enroll` makes. Participants trust
    the one that their invitation carries."""
    key: UserPath | None = None
    request_timeout_s: PositiveFloat = 60
    """How long the head of a request may take, and its body. Our choice: 200 MB at 30 Mbit/s."""
    max_connections: PositiveInt = 256

    @property
    def remote(self) -> frozenset[str]:
        """The clients that participants train."""
        return frozenset(self.clients) if self.enabled else frozenset()

    @model_validator(mode="after")
    def _check(self) -> GatewayConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("gateway.certificate and gateway.key belong together; set both or neither")
        if self.enabled and not self.clients:
            raise ValueError("gateway.enabled=true and gateway.clients is empty; name the clients that take part through it")
        return self


class RealignmentConfig(BaseModel, extra="forbid", frozen=True):
    """The server fine-tunes the final adapter on data of its own: restricted prompts with refusals, and benign rows.

    This is the post-hoc defense of Ye et al. (2024, arXiv 2406.10630): it repairs after the rounds what the levels prevent in
    them. Other settings are those of `training`. Rate and mixture are ours, measured in world 0, where the benign rows are not of
    the clients' tasks. The adapter forgets those tasks when half of the rows are benign, after more than 20 steps, or after 10
    steps at the first round's rate.
    """

    steps: NonNegativeInt = 0
    """Optimizer steps after the last round; 0: no realignment."""
    learning_rate: PositiveFloat | None = None
    """Constant; None: `training.min_learning_rate`, that of the last round."""
    samples: PositiveInt = 640
    """Examples that the steps are drawn from. Embedded world: of families that neither the federation nor the probe's collection
    has. Your own model: rows of `evaluation.canary_path` and `collect.benign_path`, repeated where there are too few."""
    refusal_share: float = Field(default=0.8, ge=0, le=1)
    """Share of them that are refused prompts."""


class RunConfig(BaseModel, extra="forbid", frozen=True):
    """Everything about one run. Defaults are the paper's (docs/method.md)."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """Other sessions find the live run by this name; None: the name of its directory."""
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
    gateway: GatewayConfig = GatewayConfig()
    tracking: list[TrackerName] = []
    """Who else is told of parameters, figures by round and the final adapter. Each needs the extra of its name, and takes its
    place and account from the environment variables of its own."""

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded world is the model and the data."""
        return self.model.path is None

    @property
    def utility_measure(self) -> UtilityMeasure:
        """By what the evaluation holds answers against right ones."""
        return self.evaluation.utility or ("exact" if self.is_embedded else "token_f1")

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
        self.attack.check(clients.attack, clients.malicious, num_clients=clients.clients_per_round, num_rounds=self.rounds)
        return self

    @property
    def simulates(self) -> bool:
        """Whether an experiment simulates clients: attackers, or honest ones that train by recipes of their own."""
        return bool(self.clients.malicious or self.clients.recipes)

    @property
    def first_attack_round(self) -> int:
        """The round, counted from 0, from which sleepers attack; 0 for all others."""
        return self.attack.first_round(self.clients.attack, self.rounds)

    @model_validator(mode="after")
    def _check_sources(self) -> RunConfig:
        if self.is_embedded and self.data.path is not None:
            raise ValueError("data.path is set but model.path is not: the embedded world brings its own data; set model.path")
        all_remote = len(self.gateway.remote) == self.clients.count
        if not self.is_embedded and self.data.path is None and not all_remote:
            raise ValueError("model.path is set but data.path is not: name the clients' data files in data.path")
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
        bound = self.evaluation.stop_below
        if bound is not None and not self.is_embedded and self.evaluation.restricted_path is None:
            raise ValueError(
                f"evaluation.stop_below={bound:g} needs restricted prompts: for model.path={self.model.path} name a data "
                "file of them in evaluation.restricted_path"
            )
        return self

    @model_validator(mode="after")
    def _check_gateway(self) -> RunConfig:
        if not (remote := self.gateway.remote):
            return self
        if unknown := sorted(remote - {f"client-{i:03d}" for i in range(self.clients.count)}):
            raise ValueError(
                f"gateway.clients={unknown[0]} is none of the clients client-000 to client-{self.clients.count - 1:03d} of "
                f"clients.count={self.clients.count}"
            )
        if self.simulates:
            raise ValueError("gateway.enabled=true takes clients as they are; set clients.malicious=0 and clients.recipes=[]")
        if self.data.watch:
            raise ValueError("gateway.enabled=true and data.watch=true do not go together; set data.watch=false")
        if self.lora.start_from is not None:
            raise ValueError(
                f"lora.start_from={self.lora.start_from} lies with the server, and participants could not begin from it; "
                "leave it out with gateway.enabled=true"
            )
        return self

    @model_validator(mode="after")
    def _check_partition(self) -> RunConfig:
        partition = self.data.partition
        if self.is_embedded and partition.column not in (None, _FAMILY):
            raise ValueError(
                f"data.partition.column={partition.column} is no column of the embedded world; "
                f"it is always partitioned by {_FAMILY}, so leave the key out"
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
    def refreshes(self) -> bool:
        """Whether the probe may be refitted on reference clients while the run goes on."""
        every = self.probe.refresh_every
        return "live" in self.defense.levels if every is None else every > 0

    @model_validator(mode="after")
    def _check_refresh(self) -> RunConfig:
        if self.refreshes and probed_signals(self.defense) != {"update"}:
            raise ValueError(
                f"probe.refresh_every={self.probe.refresh_every} fits defense.level=live only: at level {self.defense.level} the "
                "probe scores while the clients train, before it can be refitted; set probe.refresh_every=0 or defense.level=live"
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
    def _check_defense(self) -> RunConfig:
        if "spectrum" in self.defense.levels and self.lora.r == 1:
            raise ValueError(
                f"defense.level={self.defense.level}: spectrum reads how an update spreads over the directions of a factor, "
                f"and lora.r={self.lora.r} leaves it one; raise lora.r or leave out spectrum"
            )
        self.aggregation.check(self.clients.clients_per_round)
        return self

    def learning_rate(self, round_index: int) -> float:
        """Learning rate of a round: a cosine from the first to the last round (docs/method.md section 5)."""
        first, last = self.training.learning_rate, self.training.min_learning_rate
        progress = round_index / max(1, self.rounds - 1)
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
