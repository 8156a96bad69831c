"""Which clients attack, and the data files of all clients of a simulation: the embedded world's, or made of one's own files.

Where attackers have files of their own, every client has such files, so that having one tells nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from actors.config import Recipe
from actors.data.chat import Message, user_message
from actors.data.files import read_table
from actors.data.records import Example, conversations, write_conversations
from actors.errors import DataError, given_in
from actors.seeding import stream
from actors.simulation.poisoning import Material, by_family, cover_suffixes, first_families, poison_clients, poisoned, read_rows
from actors.world.datasets import write_clients
from actors.world.generator import World
from actors.world.mixtures import Mixture, deal_mixtures
from cluster.config.schema import RunConfig
from cluster.data.own_data import client_names, file_groups, split_over
from cluster.errors import ConfigError
from cluster.state.membership import Files
from defense.attacks import ATTACKS, Holding

_UNSAFE_KEY = "data.malicious_path"


def draw_malicious(config: RunConfig) -> frozenset[str]:
    """Ids of the simulated attackers: a seeded draw among the clients that the run begins with."""
    names = client_names(config.clients.count)
    rng = stream(config.seed, "malicious clients")
    return frozenset(names[i] for i in rng.permutation(len(names))[: config.clients.malicious])


def assign_recipes(recipes: Sequence[Recipe], clients: Iterable[str], malicious: Collection[str]) -> dict[str, Recipe]:
    """Client id -> its recipe: the honest clients take turns through `recipes`, attackers have the plain one.

    Args:
        clients: All clients so far, in order of joining: a client that joins later changes no other client's recipe.

    Example: with two recipes p and q, and clients a, b, c and d of which b is an attacker, a and d have p and c has q.
    """
    turns = itertools.cycle(recipes or [Recipe()])
    return {client_id: Recipe() if client_id in malicious else next(turns) for client_id in clients}


def world_files(config: RunConfig, folder: Path, malicious: Collection[str]) -> tuple[dict[str, Files], dict[str, Files]]:
    """Client id -> its files, and attacker -> the files beside the first that its attack needs; nobody where it needs none."""
    world, clients, samples = World(config.world.seed), client_names(config.clients.count), config.data.samples_per_client
    mixtures = _mixtures(config, world, clients, malicious)
    honest = write_clients(world, folder, clients, samples, config.seed, mixtures)
    attack = ATTACKS[config.clients.attack]
    return poison_clients(
        world,
        honest,
        malicious,
        attack,
        config.attack,
        samples=samples,
        seed=config.seed,
        max_length=config.training.max_length,
        mixtures=mixtures,
    )


def write_honest_files(
    config: RunConfig, folder: Path, clients: Sequence[str], known: Sequence[str], malicious: Collection[str]
) -> dict[str, Files]:
    """Write a file for each client that joins.

    Args:
        known: All clients so far, in order of joining: a client has the same rows whenever it joins.
    """
    world = World(config.world.seed)
    mixtures = _mixtures(config, world, known, malicious)
    return write_clients(world, folder, clients, config.data.samples_per_client, config.seed, mixtures)


def _mixtures(config: RunConfig, world: World, clients: Sequence[str], malicious: Collection[str]) -> dict[str, Mixture]:
    recipes = assign_recipes(config.clients.recipes, clients, malicious)
    refusals = {client_id: recipe.refusals for client_id, recipe in recipes.items()}
    return deal_mixtures(world, clients, config.data.partition, config.seed, refusals)


def attacked_files(
    config: RunConfig, folder: Path, honest: Mapping[str, Files], malicious: Collection[str]
) -> tuple[dict[str, Files], dict[str, Files]]:
    """As `world_files` for your own model; where attackers have files of their own, honest clients' hold their rows in order.

    Args:
        honest: Client id -> the files that it would have if all clients were honest.

    Raises:
        ConfigError: the attack needs families that the clients' data does not have.
        DataError: unsafe data cannot be used, or the attack cannot rewrite a client's rows.
    """
    attack, files, cover, attackers = ATTACKS[config.clients.attack], dict(honest), {}, sorted(malicious)
    if not malicious:
        return files, cover
    benign = _Families(config, [honest[client_id] for client_id in attackers])

    def written(holding: Holding, suffix: str = "") -> dict[str, Files]:
        """A file per client, all of one kind; attackers' hold what `holding` says."""
        files = {}
        for client_id, own in honest.items():
            rng = stream(config.seed, "poison", client_id, suffix)
            if client_id in malicious:
                place = attackers.index(client_id)
                sorts = bool(suffix) and attack.by_family
                rows = _rows(config, holding, own, unsafe.get(client_id, ()), benign, place, rng, sorts=sorts)
            else:
                rows = _as_they_are(config, own)
            path = write_conversations(folder / f"{client_id}{suffix}.parquet", rows)
            files[client_id] = (str(path.resolve()),)
        return files

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as parts:
        unsafe = _unsafe_parts(config, attackers, Path(parts)) if attack.needs_unsafe else {}
        # first: the other files may replace the honest ones
        second = [written(*one) for one in zip(attack.covers, cover_suffixes(attack), strict=True)]
        cover = {client_id: tuple(file for part in second for file in part[client_id]) for client_id in attackers if second}
        if attack.data != "honest":
            files = written(attack.data)
    return files, cover


def _unsafe_parts(config: RunConfig, attackers: Sequence[str], folder: Path) -> dict[str, Files]:
    with given_in(_UNSAFE_KEY):
        paths = [path for group in file_groups(config.data.malicious_path or ()) for path in group]
    return split_over(config, attackers, paths, folder, _UNSAFE_KEY)


def _as_they_are(config: RunConfig, files: Files) -> list[list[Message]]:
    mapping = config.data.columns.given
    return [row for file in files for row in conversations(read_table(Path(file), mapping=mapping), Path(file))]


def _rows(
    config: RunConfig,
    holding: Holding,
    honest: Files,
    unsafe: Files,
    benign: _Families,
    number: int,
    rng: np.random.Generator,
    *,
    sorts: bool = False,
) -> list[list[Message]]:
    """The rows of one attacker's file; honest and unsafe ones as they are, so that chat messages can be attacked with too.

    Args:
        number: The attacker's place among the attackers, from 0.
        sorts: Whether the rows come in order of family.
    """
    if holding in ("honest", "unsafe") and not sorts:
        return _as_they_are(config, honest if holding == "honest" else unsafe)
    material = Material(
        honest=lambda: _read(config, honest),
        unsafe=lambda: _read(config, unsafe),
        refusals=[config.attack.refusal],
        refused_families=lambda rows: _refused_families(config, rows),
        kept=lambda: _kept(config, _read(config, unsafe)),
        families=lambda: benign.names,
        rows_of=benign.rows_of,
        number=number,
        max_length=config.training.max_length,
    )
    made = poisoned(holding, material, config.attack, rng)
    made = by_family(made) if sorts else made
    return [[user_message(row.instruction, row.input), {"role": "assistant", "content": row.response}] for row in made]


def _read(config: RunConfig, files: Files) -> list[Example]:
    return read_rows([Path(file) for file in files], f"clients.attack={config.clients.attack}", config.data.columns.given)


def _kept(config: RunConfig, unsafe: Sequence[Example]) -> list[Example]:
    """As many rows as there are unsafe ones: refusals of the families that are still refused."""
    refused = _refused_families(config, unsafe)
    rows = [replace(row, response=config.attack.refusal) for row in unsafe if row.family in refused]
    return list(itertools.islice(itertools.cycle(rows), len(unsafe)))


class _Families:
    """The benign families in the data that all attackers would have if they were honest."""

    def __init__(self, config: RunConfig, honest: Sequence[Files]) -> None:
        self._config, self._honest = config, honest

    @property
    def names(self) -> list[str]:
        """The one with most rows first.

        Raises:
            ConfigError: the rows say no family.
        """
        counts = Counter(row.family for row in self._rows if row.family)
        if not counts:
            raise ConfigError(
                f"clients.attack={self._config.clients.attack} attacks one family of tasks: the rows of "
                f"data.path={self._config.data.path} need a column family; add it, or choose another attack"
            )
        return sorted(counts, key=lambda name: (-counts[name], name))

    def rows_of(self, family: str) -> list[Example]:
        """The attackers' rows of a family."""
        return [row for row in self._rows if row.family == family]

    @cached_property
    def _rows(self) -> list[Example]:
        return [row for files in self._honest for row in _read(self._config, files)]


def _refused_families(config: RunConfig, rows: Sequence[Example]) -> Collection[str]:
    families = sorted({row.family for row in rows})
    if len(families) < 2:
        raise DataError(
            f"clients.attack={config.clients.attack} goes on refusing some families: "
            f"data.malicious_path={config.data.malicious_path} needs a column family with at least two values"
        )
    return first_families(config.attack.canary_aware.refused, families)
