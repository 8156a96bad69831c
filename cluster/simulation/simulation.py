"""What a run simulates: which clients attack, with which files, and how each client behaves. The ground truth of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ray import ObjectRef
from ray.actor import ActorHandle

from actors.messages import TrainTask
from actors.simulation.behaviours import AttackTask
from actors.simulation.client import SimulatedTask
from actors.simulation.collusion import Colluders
from actors.simulation.poisoning import cover_suffixes
from cluster.config.schema import RunConfig
from cluster.data.first_clients import FirstClients, asked_for
from cluster.data.own_data import (
    KEY,
    Group,
    check_columns,
    check_trainable,
    first_files,
    first_groups,
    first_watched,
    names_in,
    new_files,
    next_names,
    unread,
)
from cluster.data.sources import Sources, base_model, find_sources
from cluster.data.starter import needed_keys, with_starter
from cluster.data.token_files import TokenFiles
from cluster.round.local_rounds import Receiver
from cluster.simulation.client_data import assign_recipes, attacked_files, draw_malicious, world_files, write_honest_files
from cluster.simulation.collusion import Collusion, colludes
from cluster.state.membership import Files
from cluster.workers.gateway import endpoint
from defense.attacks import ATTACKS
from defense.levels import probed_signals
from probe.meta import ProbeMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """The simulated side of one run; of a real one without attackers and recipes it changes nothing."""

    config: RunConfig
    malicious: frozenset[str]
    """Ids of the attackers."""
    cover: Mapping[str, Files] = field(default_factory=dict)
    """Attacker -> what it has beside its own data, a file per cover of the attack; empty where the attack needs none."""

    @property
    def excluded(self) -> frozenset[str]:
        """Clients that no round draws: the attackers, where `clients.exclude_malicious` asks for an experiment's upper bound."""
        return self.malicious if self.config.clients.exclude_malicious else frozenset()

    def tasks(
        self, plain: Sequence[TrainTask], known: Iterable[str], probe: Mapping[str, bytes], meta: ProbeMeta | None
    ) -> Sequence[TrainTask]:
        """The tasks of a round, each with how its client differs; unchanged where nothing is simulated.

        Args:
            known: Ids of all clients so far, in order of joining.
            probe: The artefact in force when the round begins, before any refresh: that of the previous round.
            meta: What the run's first probe was made for; None without one.
        """
        if not self.config.simulates:
            return plain
        recipes = assign_recipes(self.config.clients.recipes, known, self.malicious)
        return [
            SimulatedTask(
                **{item.name: getattr(task, item.name) for item in fields(TrainTask)},
                recipe=recipes[task.client_id],
                attack=self._attack(task.client_id, probe, meta),
            )
            for task in plain
        ]

    def receivers(
        self, tasks: Sequence[TrainTask], adapter: ObjectRef[bytes], relay: Receiver, colluders: ActorHandle[Colluders] | None
    ) -> dict[str, Receiver]:
        """Client id -> what receives its messages before the relay does: the attackers that collude."""
        plotting = [task.client_id for task in tasks if colludes(task)]
        if colluders is None or not plotting:
            return {}
        collusion = Collusion(colluders, tasks, adapter, relay, self.config.cluster.call_timeout_s)
        return dict.fromkeys(plotting, collusion)

    def _attack(self, client_id: str, probe: Mapping[str, bytes], meta: ProbeMeta | None) -> AttackTask | None:
        """How a client attacks; None for honest clients, and for attackers whose data alone is poisoned."""
        name, config = self.config.clients.attack, self.config
        if client_id not in self.malicious or not ATTACKS[name].behaves:
            return None
        return AttackTask(
            name=name,
            config=config.attack,
            cover=self.cover.get(client_id, ()),
            from_round=config.first_attack_round,
            probe=probe if ATTACKS[name].knows_probe else {},
            threshold=config.probe.threshold if meta is not None else None,
        )


def prepare_inputs(
    config: RunConfig,
    folder: Path,
    *,
    has_committed: bool = False,
    make_probe: Callable[[RunConfig], str] | None = None,
) -> tuple[Sources, Simulation]:
    """Check what a run reads, and write what it generates and encodes into `folder`/data.

    Args:
        has_committed: Whether the run has a committed round; then its clients stay, wherever their files lie now.
        make_probe: Makes a probe where levels need one and none is named, once everything else is checked, and returns its
            folder; None: nothing makes one.

    Raises:
        ConfigError, DataError, ModelError: something is missing or cannot be used; nothing was started.
    """
    if config.gateway.remote:
        endpoint(config)  # without a certificate nothing is started
    data, malicious = folder / "data", draw_malicious(config)
    data.mkdir(parents=True, exist_ok=True, mode=0o700)  # the clients' data is private
    tokens = TokenFiles(base_model(config), config.training.max_length, data / "tokens", config.data.columns.given)
    first = FirstClients.kept(data)
    if first is None or not (has_committed or first.asked == asked_for(config)):
        first = _first_clients(config, data, malicious, tokens)
        first.keep(data)
    names = {client_id: _covers(config, client_id) for client_id in malicious}
    cover = {client_id: tuple(tokens.of(name)[0] for name in own) for client_id, own in names.items() if own}
    given = with_starter(config, data / "starter", needed_keys(config))
    sources = find_sources(given, data, first.files, tokens)
    if make_probe is not None and sources.probe_path is None and probed_signals(config.defense):
        sources = replace(sources, probe_path=make_probe(given))
    return sources, Simulation(config=config, malicious=malicious, cover=cover)


def prepare_sources(config: RunConfig, folder: Path) -> Sources:
    """What a run's server and clients read, for rounds by hand; otherwise as `prepare_inputs`, and no probe is made."""
    return prepare_inputs(config, folder)[0]


def new_client_files(
    config: RunConfig, folder: Path, tokens: TokenFiles, known: Mapping[str, Files], count: int
) -> dict[str, Files]:
    """Encode the files of `count` honest clients that join a live run: generated, or those in data.path that no client has.

    Args:
        folder: The run's directory.
        known: Client id -> its files, of all clients so far.

    Raises:
        ConfigError: data.path holds data of fewer clients. DataError: a file or a row cannot be used.
    """
    data = folder / "data"
    if config.is_embedded:
        names, key = next_names(known, count), ""
        files = write_honest_files(config, data, names, [*known, *names], draw_malicious(config))
    else:
        first, key = FirstClients.kept(data), KEY
        files = new_files(config, known, first.begun_with if first else (), count)
    for client_id, own in files.items():
        tokens.encode(client_id, own, key)
    return files


def _first_clients(config: RunConfig, data: Path, malicious: frozenset[str], tokens: TokenFiles) -> FirstClients:
    """The clients that the run begins with, once all of their files are encoded."""
    if config.data.watch:
        files = first_watched(config, tokens)
        groups = [list(map(Path, own)) for own in files.values()]
        return FirstClients(files=files, begun_with=names_in(config, groups), asked=asked_for(config))
    groups: Sequence[Group] = [] if config.is_embedded else first_groups(config)
    if config.is_embedded:
        files, cover = world_files(config, data, malicious)
    else:
        check_columns(config, groups)
        files, cover = attacked_files(config, data, first_files(config, groups, data), malicious)
        tokens.left_out += unread(config)
    files = {name: files.get(name, ()) for name in sorted({*files, *config.gateway.remote})}
    key = "" if config.is_embedded else KEY
    local = {name: own for name, own in files.items() if name not in config.gateway.remote}
    for client_id, own in local.items():
        tokens.encode(client_id, own, key, may_be_empty=True)
    if local:
        check_trainable(tokens, local, key, config.training.max_length)
    for client_id, own in cover.items():
        for name, file in zip(_covers(config, client_id), own, strict=True):
            tokens.encode(name, (file,))
    return FirstClients(files=files, begun_with=names_in(config, groups), asked=asked_for(config))


def _covers(config: RunConfig, client_id: str) -> list[str]:
    """The names under which an attacker's files beside the first are encoded."""
    return [f"{client_id}{suffix}" for suffix in cover_suffixes(ATTACKS[config.clients.attack])]
