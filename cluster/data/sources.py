"""From the configuration to files: which base model, which data files per client, which prompts, which probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.config import EvaluationConfig, ModelConfig
from actors.data.references import Reference
from actors.seeding import stream
from actors.world.datasets import write_canary, write_clients, write_evaluation, write_validation
from actors.world.generator import World
from actors.world.mixtures import Mixture, deal_mixtures
from actors.world.store import base_folder, is_built, live_probe_folder, probe_folder, world_folder
from cluster.config.schema import RunConfig
from cluster.data.own_data import absolute, client_names, files_to_begin_with, newcomers, next_names
from cluster.data.realignment import prepare_realignment
from cluster.data.references import LIVE_ROLE, prepare_references
from cluster.data.server_data import canary_path, check_prompts, validation_path, wanted_prompts
from cluster.errors import ConfigError
from cluster.simulation.poison import COVER_SUFFIX, attacked_files
from cluster.simulation.recipes import assign_recipes
from defense.attacks import ATTACKS
from defense.levels import probed_sources


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything a run reads, as paths."""

    model: ModelConfig
    """With a path, also for the embedded world."""
    evaluation: EvaluationConfig
    """With the paths of the prompts and the phrases of refusals."""
    probe_path: str | None
    """None where no level needs a probe."""
    canary_path: str | None = None
    """Restricted prompts with refusals, for level canary and the guard; None where neither is on."""
    validation_path: str | None = None
    """Clean rows of the clients' own task, for levels fltrust and zeno; None where neither is on."""
    files: dict[str, tuple[str, ...]]
    """Client id -> its data files."""
    references: tuple[Reference, ...] = ()
    """Reference clients that the probe is refreshed with; empty when it never is."""
    realignment: tuple[str, ...] = ()
    """What the server fine-tunes the final adapter on; empty where it does not."""
    malicious: frozenset[str]
    """Ground truth, for ground_truth.parquet, the closing table, the attackers' own tasks and `clients.exclude_malicious`. No
    part of the defense is told."""
    cover: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Malicious client -> the data that makes it look honest; empty where the attack needs none."""


def draw_malicious(config: RunConfig) -> frozenset[str]:
    """The simulated attackers: a seeded draw among the clients."""
    names = client_names(config.clients.count)
    rng = stream(config.seed, "malicious clients")
    return frozenset(names[i] for i in rng.permutation(len(names))[: config.clients.malicious])


def prepare_sources(config: RunConfig, folder: Path) -> Sources:
    """Check what the run reads and write what it generates into `folder`/data.

    Raises:
        ConfigError, DataError: something is missing or cannot be used; nothing was started.
    """
    malicious = draw_malicious(config)
    check_prompts(config.evaluation)
    return (_embedded_sources if config.is_embedded else _own_sources)(config, folder / "data", malicious)


def new_client_files(
    config: RunConfig, folder: Path, known: Mapping[str, tuple[str, ...]], count: int
) -> dict[str, tuple[str, ...]]:
    """Data files of `count` clients that join a live run: generated, or those in data.path that nobody has yet.

    Raises:
        ConfigError: data.path holds data of fewer clients. DataError: a file or a row cannot be used.
    """
    names = next_names(known, count)
    if config.is_embedded:
        world, samples = World(config.world.seed), config.data.samples_per_client
        mixtures = _mixtures(config, world, [*known, *names], draw_malicious(config))
        return write_clients(world, folder / "data", names, (), samples, config.seed, mixtures=mixtures)
    return {name: absolute(group) for name, group in zip(names, newcomers(config, folder / "data", known, count), strict=True)}


def built_world(config: RunConfig) -> Path:
    """Folder of the world's base model and probe; raises ConfigError with the command that builds it."""
    folder = Path(config.world.path) if config.world.path else world_folder(config.world.seed)
    if not is_built(folder):
        raise ConfigError(
            f"world.seed={config.world.seed} is not built ({folder}); "
            f"build it once with: safe-fedllm world build world.seed={config.world.seed}"
        )
    return folder


def base_model(config: RunConfig) -> ModelConfig:
    """The base model with its path, also for the embedded world; raises ConfigError as `built_world` does."""
    if not config.is_embedded:
        return config.model
    return config.model.model_copy(update={"path": str(base_folder(built_world(config)).resolve())})


def _own_sources(config: RunConfig, folder: Path, malicious: frozenset[str]) -> Sources:
    files, cover = attacked_files(config, folder, files_to_begin_with(config, folder), malicious)
    return Sources(
        model=config.model,
        evaluation=wanted_prompts(config.evaluation.model_copy(update={"trigger": _trigger(config)})),
        probe_path=_probe_path(config, None),
        files=files,
        cover=cover,
        canary_path=canary_path(config, None),
        validation_path=validation_path(config, None),
        references=_references(config, folder / "references"),
        realignment=prepare_realignment(config, folder / "realignment"),
        malicious=malicious,
    )


def _embedded_sources(config: RunConfig, folder: Path, malicious: frozenset[str]) -> Sources:
    built, world = built_world(config), World(config.world.seed)
    clients = client_names(config.clients.count)
    attack, samples = ATTACKS[config.clients.attack], config.data.samples_per_client
    common = {"config": config.attack, "mixtures": _mixtures(config, world, clients, malicious)}
    files = write_clients(world, folder, clients, malicious, samples, config.seed, holding=attack.data, **common)
    cover = {}
    if attack.cover is not None:  # every client has a second file, so that having one tells nothing
        written = {"holding": attack.cover, "suffix": COVER_SUFFIX, **common}
        second = write_clients(world, folder, clients, malicious, samples, config.seed, **written)
        cover = {client_id: second[client_id] for client_id in malicious}
    restricted, benign = write_evaluation(world, folder, config.evaluation.max_restricted, config.evaluation.max_benign)
    paths = {
        "restricted_path": config.evaluation.restricted_path or str(restricted.resolve()),
        "benign_path": config.evaluation.benign_path or str(benign.resolve()),
        "refusals": config.evaluation.refusals or world.language.refusals,
        "trigger": _trigger(config),
    }
    return Sources(
        model=base_model(config),
        evaluation=wanted_prompts(config.evaluation.model_copy(update=paths)),
        probe_path=_probe_path(config, live_probe_folder(built) if _is_live(config) else probe_folder(built)),
        files=files,
        canary_path=canary_path(config, lambda: write_canary(world, folder, config.evaluation.max_canary)),
        validation_path=validation_path(config, lambda: write_validation(world, folder, config.evaluation.max_validation)),
        references=_references(config, folder / "references"),
        realignment=prepare_realignment(config, folder / "realignment"),
        malicious=malicious,
        cover=cover,
    )


def _mixtures(config: RunConfig, world: World, clients: Sequence[str], malicious: frozenset[str]) -> dict[str, Mixture]:
    recipes = assign_recipes(config.clients.recipes, clients, malicious)
    refusals = {client_id: recipe.refusals for client_id, recipe in recipes.items()}
    return deal_mixtures(world, clients, config.data.partition, config.seed, refusals)


def _references(config: RunConfig, folder: Path) -> tuple[Reference, ...]:
    if not config.refresh_every:
        return ()
    return tuple(prepare_references(config, folder, role=LIVE_ROLE, clients=config.probe.refresh_clients))


def _is_live(config: RunConfig) -> bool:
    """Whether the probe reads updates only."""
    return probed_sources(config.defense) == {"update"}


def _probe_path(config: RunConfig, embedded: Path | None) -> str | None:
    if not probed_sources(config.defense):
        return None
    if config.probe.path or embedded:
        return str(Path(config.probe.path or embedded).resolve())
    raise ConfigError(
        f"defense.level={config.defense.level} needs a probe for your model: set probe.path to its folder. "
        "To make one: safe-fedllm probe collect CONFIG, then safe-fedllm probe train STORE --output DIR"
    )


def _trigger(config: RunConfig) -> str | None:
    """The phrase with which the evaluation measures a backdoor's success; None where the attack has none."""
    own = config.attack.backdoor.trigger if ATTACKS[config.clients.attack].has_trigger else None
    return config.evaluation.trigger or own
