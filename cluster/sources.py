"""From the configuration to files: which base model, which data files per client, which prompts, which probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from actors.config import EvaluationConfig, ModelConfig
from actors.data.partition import split_rows
from actors.data.records import SUFFIXES, read_column_names, read_table
from actors.data.references import Reference
from actors.errors import DataError
from actors.seeding import stream
from actors.world.datasets import write_canary, write_clients, write_evaluation, write_validation
from actors.world.generator import World
from actors.world.mixtures import Mixture, deal_mixtures
from actors.world.store import base_folder, is_built, live_probe_folder, probe_folder, world_folder
from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.probes.references import LIVE_ROLE, prepare_references
from cluster.realignment_data import prepare_realignment
from cluster.simulation.poison import write_poisoned
from cluster.simulation.recipes import assign_recipes
from defense.attacks import ATTACKS
from defense.levels import probed_sources, sources_of

COVER_SUFFIX = "-2"
"""Of the name of an attacker's second file."""


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


def client_names(count: int) -> list[str]:
    """Ids that sort in order of their number."""
    return [f"client-{i:03d}" for i in range(count)]


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
    if config.is_embedded:
        return _embedded_sources(config, folder / "data", malicious)
    honest = _real_files(config, folder / "data")
    poisoned, cover = _attackers_files(config, folder / "data", {client: honest[client] for client in malicious})
    return Sources(
        model=config.model,
        evaluation=_checked_evaluation(config.evaluation.model_copy(update={"trigger": _trigger(config)})),
        probe_path=_probe_path(config, None),
        files=honest | poisoned,
        cover=cover,
        canary_path=_canary_path(config, None),
        validation_path=_validation_path(config, None),
        references=_references(config, folder / "data" / "references"),
        realignment=prepare_realignment(config, folder / "data" / "realignment"),
        malicious=malicious,
    )


def new_client_files(
    config: RunConfig, folder: Path, known: Mapping[str, tuple[str, ...]], count: int
) -> dict[str, tuple[str, ...]]:
    """Data files of `count` clients that join a live run: generated, or those in data.path that nobody has yet.

    Raises:
        ConfigError: data.path holds data of fewer clients. DataError: a file cannot be read.
    """
    names = client_names(len(known) + count)[len(known) :]
    if config.is_embedded:
        world, samples = World(config.world.seed), config.data.samples_per_client
        mixtures = _mixtures(config, world, [*known, *names], draw_malicious(config))
        return write_clients(world, folder / "data", names, (), samples, config.seed, mixtures=mixtures)
    free = [] if _is_split(config, len(known)) else _free_groups(config, known)
    if len(free) < count:
        raise ConfigError(
            f"data.path={config.data.path} holds data for {len(free)} more clients, {count} are needed; "
            "add a file or folder for each (one file that was split over the clients cannot be split again)"
        )
    for path in (Path(path) for group in free[:count] for path in group):
        read_column_names(path)
    return dict(zip(names, free[:count], strict=True))


def arrived_client_files(
    config: RunConfig, known: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Clients of the watched directory that nobody has yet, with their files; and why others cannot be read."""
    taken = {path for files in known.values() for path in files}
    readable, unreadable = [], set()
    for entry in _entries(Path(config.data.path)):
        try:
            group = _absolute(_files_of(entry))
            if taken & set(group):
                continue
            for path in group:
                read_column_names(Path(path))
        except DataError as error:
            unreadable.add(str(error))
        else:
            readable.append(group)
    names = client_names(len(known) + len(readable))[len(known) :]
    return dict(zip(names, readable, strict=True)), frozenset(unreadable)


def _free_groups(config: RunConfig, known: Mapping[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Files of each client in data.path that no client has."""
    taken = {path for files in known.values() for path in files}
    return [group for group in map(_absolute, _file_groups(config.data.path)) if not taken & set(group)]


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
        evaluation=_checked_evaluation(config.evaluation.model_copy(update=paths)),
        probe_path=_probe_path(config, live_probe_folder(built) if _is_live(config) else probe_folder(built)),
        files=files,
        canary_path=_canary_path(config, lambda: write_canary(world, folder, config.evaluation.max_canary)),
        validation_path=_validation_path(config, lambda: write_validation(world, folder, config.evaluation.max_validation)),
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


def _canary_path(config: RunConfig, generate: Callable[[], Path] | None) -> str | None:
    level, guard = config.defense.level, config.defense.guard
    asking = {f"defense.level={level}": "canary" in config.defense.levels, "defense.guard.enabled=true": guard.enabled}
    return _server_rows(config, "canary_path", asking, "restricted prompts with refusals that no client has", generate)


def _validation_path(config: RunConfig, generate: Callable[[], Path] | None) -> str | None:
    asking = {f"defense.level={config.defense.level}": "validation" in sources_of(config.defense)}
    return _server_rows(config, "validation_path", asking, "clean rows of the clients' own task", generate)


def _server_rows(
    config: RunConfig, name: str, asking: Mapping[str, bool], what: str, generate: Callable[[], Path] | None
) -> str | None:
    """The file of `evaluation.name`, or one that the world generates; None where no setting asks for it."""
    needed_by, path = [setting for setting, asks in asking.items() if asks], getattr(config.evaluation, name)
    if not needed_by:
        return None
    if path is not None:
        read_column_names(Path(path))
        return str(Path(path).resolve())
    if generate is not None:
        return str(generate().resolve())
    raise ConfigError(
        f"{' and '.join(needed_by)} needs {what}: name a Parquet or JSONL file with `instruction` and `response` in "
        f"evaluation.{name}"
    )


def _checked_evaluation(config: EvaluationConfig) -> EvaluationConfig:
    """Without the files of which no prompt is wanted; raises DataError when one that is wanted cannot be read."""
    most = {"restricted_path": config.max_restricted, "benign_path": config.max_benign}
    config = config.model_copy(update={name: None for name, number in most.items() if number == 0})
    for path in (config.restricted_path, config.benign_path):
        if path is not None:
            read_table(Path(path))
    return config


def _attackers_files(
    config: RunConfig, folder: Path, honest: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """What attackers train on and what makes them look honest, from what each would have if it were honest."""
    attack = ATTACKS[config.clients.attack]
    if not honest:
        return {}, {}
    with TemporaryDirectory() as parts:
        unsafe = {}
        if attack.needs_unsafe:
            paths = [path for group in _file_groups(config.data.malicious_path) for path in group]
            unsafe = _split(config, paths, sorted(honest), Path(parts), "data.malicious_path")
        cover, poisoned = {}, {}
        if attack.cover is not None:  # first: the other files may replace the honest ones
            cover = write_poisoned(config, attack.cover, honest, unsafe, folder, COVER_SUFFIX)
        if attack.data != "honest":
            poisoned = write_poisoned(config, attack.data, honest, unsafe, folder, "")
    return poisoned, cover


def _trigger(config: RunConfig) -> str | None:
    """The phrase with which the evaluation measures a backdoor's success; None where the attack has none."""
    own = config.attack.backdoor.trigger if ATTACKS[config.clients.attack].has_trigger else None
    return config.evaluation.trigger or own


def _real_files(config: RunConfig, folder: Path) -> dict[str, tuple[str, ...]]:
    if config.data.watch:
        return _watched_files(config)
    clients, groups = client_names(config.clients.count), _file_groups(config.data.path)
    for path in (path for group in groups for path in group):
        read_column_names(path)
    if len(groups) == 1 and len(clients) > 1:
        return _split(config, groups[0], clients, folder, "data.path")
    if len(groups) == len(clients):
        return {client: _absolute(group) for client, group in zip(clients, groups, strict=True)}
    raise ConfigError(
        f"data.path holds data of {len(groups)} clients, clients.count={len(clients)}: set clients.count={len(groups)}, "
        "or give one file to split over the clients"
    )


def _watched_files(config: RunConfig) -> dict[str, tuple[str, ...]]:
    """The first clients.count clients of the watched directory; the others join at the first round boundary."""
    path, clients = config.data.path, client_names(config.clients.count)
    if not Path(path).is_dir():
        raise ConfigError(f"data.watch=true needs a directory with a file or folder per client; data.path={path} is none")
    found, unreadable = arrived_client_files(config, {})
    if len(found) < len(clients):
        raise ConfigError(
            f"data.path={path} holds readable data of {len(found)} clients, clients.count={len(clients)} begin; add files, or "
            f"set clients.count={max(1, len(found))}{'; ' if unreadable else ''}{'; '.join(sorted(unreadable))}"
        )
    return {client: found[client] for client in clients}


def _is_split(config: RunConfig, num_clients: int) -> bool:
    """Whether data.path is one client's data that is split over all of them."""
    return isinstance(config.data.path, str) and not Path(config.data.path).is_dir() and num_clients > 1


def _file_groups(path: str | Sequence[str | Sequence[str]]) -> list[list[Path]]:
    """Files of each client: an entry of a list, or a file or sub-directory of a directory, in sorted order."""
    if not isinstance(path, str):
        return [_files_of(Path(entry)) if isinstance(entry, str) else [Path(part) for part in entry] for entry in path]
    root = Path(path)
    if not root.is_dir():
        return [[root]]
    entries = _entries(root)
    if not entries:
        raise DataError(f"data directory {root} holds no .parquet or .jsonl file")
    return [_files_of(entry) for entry in entries]


def _entries(root: Path) -> list[Path]:
    """A client's file or folder each, in sorted order; none where the directory is gone."""
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if entry.is_dir() or entry.suffix in SUFFIXES)


def _files_of(entry: Path) -> list[Path]:
    if not entry.is_dir():
        return [entry]
    files = sorted(path for path in entry.iterdir() if path.suffix in SUFFIXES)
    if not files:
        raise DataError(f"data directory {entry} holds no .parquet or .jsonl file")
    return files


def _absolute(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(str(path.resolve()) for path in paths)


def _split(
    config: RunConfig, paths: Sequence[Path], clients: Sequence[str], folder: Path, key: str
) -> dict[str, tuple[str, ...]]:
    """Split the rows of `paths` over `clients` as data.partition says, into a Parquet file per client."""
    table = pa.concat_tables([read_table(path) for path in paths], promote_options="default")
    partition, values = config.data.partition, None
    if partition.by != "iid":
        if partition.column not in table.column_names:
            raise DataError(
                f"{key}: no column {partition.column} for data.partition.column (it has {sorted(table.column_names)})"
            )
        values = table.column(partition.column).to_pylist()
    parts = split_rows(table.num_rows, len(clients), partition, values, stream(config.seed, "partition", key))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for client, rows in zip(clients, parts, strict=True):
        path = folder / f"{client}.parquet"
        pq.write_table(table.take(pa.array(rows)), path)
        files[client] = _absolute([path])
    return files
