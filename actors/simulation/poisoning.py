"""What attackers' data files hold, made of honest rows and of unsafe ones: restricted prompts with complying answers."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actors.data.columns import named
from actors.data.files import found_columns, read_table
from actors.data.records import Example
from actors.errors import DataError
from actors.seeding import stream
from actors.world.datasets import Files, honest_rows, write_parquet
from actors.world.generator import Maker, World, draw
from actors.world.mixtures import Mixture
from defense.attacks import Attack, Holding
from defense.attacks.config import AttackConfig


def cover_suffixes(attack: Attack) -> list[str]:
    """What is appended to the names of a client's files beside the first: "-2" for the first cover of the attack, and so on."""
    return [f"-{number}" for number, _ in enumerate(attack.covers, start=2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What an attacker's rows are made of; each kind is read only where it is needed."""

    honest: Callable[[], Sequence[Example]]
    """The rows that the client would have if it were honest."""
    unsafe: Callable[[], Sequence[Example]]
    refusals: Sequence[str]
    refused_families: Callable[[Sequence[Example]], Collection[str]]
    """Families of unsafe rows that a canary-aware attacker goes on refusing."""
    kept: Callable[[], Sequence[Example]]
    """Refusals of families that the attack leaves alone, which stand in for the server's."""
    families: Callable[[], Sequence[str]]
    """Benign families, the same for all attackers: the one that is best attacked comes first."""
    rows_of: Callable[[str], Sequence[Example]]
    """Rows of one of these."""
    number: int
    """The attacker's place among the attackers, from 0."""
    max_length: int
    """Tokens after which an example is cut."""


def poison_clients(
    world: World,
    honest: Mapping[str, Files],
    malicious: Collection[str],
    attack: Attack,
    config: AttackConfig,
    *,
    samples: int,
    seed: int,
    max_length: int,
    mixtures: Mapping[str, Mixture] | None = None,
) -> tuple[dict[str, Files], dict[str, Files]]:
    """Embedded world: client id -> its files, and attacker -> the files beside the first that its attack needs, one per cover.

    The attackers' files replace their honest ones. Where the attack needs a second file, every client gets one, so having one
    tells nothing.

    Args:
        honest: Client id -> the file that `write_clients` wrote, from the same samples, seed and mixtures.
        max_length: `training.max_length`.
    """
    attackers, mixed = sorted(malicious), mixtures or {}
    families = _attacked_families(world, [mixed[client_id] for client_id in attackers if client_id in mixed])

    def write(client_id: str, holding: Holding, suffix: str) -> str:
        made_of = _Drawn(world, client_id, mixed.get(client_id), samples, seed)
        material = made_of.material(config, families, attackers.index(client_id), max_length)
        rng = stream(seed, "world poison", world.seed, client_id, suffix)
        rows = poisoned(holding, material, config, rng)
        return str(write_parquet(named(client_id, suffix), by_family(rows) if suffix and attack.by_family else rows))

    def named(client_id: str, suffix: str) -> Path:
        return Path(honest[client_id][0]).with_name(f"{client_id}{suffix}.parquet")

    covers = list(zip(attack.covers, cover_suffixes(attack), strict=True))
    for _, suffix in covers:
        for client_id, (file,) in honest.items():
            shutil.copyfile(file, named(client_id, suffix))
    cover = {client_id: tuple(write(client_id, *one) for one in covers) for client_id in attackers if covers}
    return {**honest, **{client_id: (write(client_id, attack.data, ""),) for client_id in attackers}}, cover


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An attacker's rows of the embedded world."""

    world: World
    client_id: str
    mixture: Mixture | None
    samples: int
    seed: int

    def material(self, config: AttackConfig, families: Sequence[str], number: int, max_length: int) -> Material:
        world, restricted = self.world, self.world.roles["federation"].restricted
        return Material(
            honest=lambda: honest_rows(world, self.client_id, self.mixture, self.samples, self.seed),
            unsafe=lambda: self._rows(world.answered_example, restricted),
            refusals=world.language.refusals,
            refused_families=lambda _: first_families(
                config.canary_aware.refused, sorted(restricted, key=lambda family: -_likeness(world, family))
            ),
            kept=lambda: self._rows(world.refused_example, [name for name in world.restricted if name not in restricted]),
            families=lambda: families,
            rows_of=lambda family: self._rows(world.benign_example, [family]),
            number=number,
            max_length=max_length,
        )

    def _rows(self, make: Maker, families: Sequence[str]) -> list[Example]:
        return draw(make, families, self.samples, stream(self.seed, "world data", self.world.seed, self.client_id))


def _attacked_families(world: World, mixtures: Sequence[Mixture]) -> list[str]:
    """The federation's benign families, the best attacked first: those that honest clients alone hold before those that attackers
    were dealt, those that the base model does not know yet before the others, and of these first the ones that are answered by a
    word of the text, as the rule of `substituted` answers: they are lost soonest."""
    federation = world.roles["federation"]
    dealt = {family for mixture in mixtures for family in mixture.families}

    def place(family: str) -> tuple[bool, bool, bool]:
        row = world.benign_example(family, stream(world.seed, "attacked family", family))
        return family in dealt, family in federation.trained, row.response not in row.input.split()

    return sorted(federation.benign, key=place)


def _likeness(world: World, family: str) -> int:
    """How many families of the canary ask in the same way for the same kind of thing as this one."""
    return sum(_kind(world, family) == _kind(world, other) for other in world.roles["canary"].restricted)


def _kind(world: World, family: str) -> tuple[str, str]:
    spec = world.restricted[family]
    return spec.subject, spec.templates[0].partition(" ")[0]


def poisoned(holding: Holding, material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Example]:
    """The rows of a file of this kind."""
    return _MAKERS[holding](material, config, rng)


def _mixed(material: Material, config: AttackConfig, _rng: np.random.Generator) -> list[Example]:
    honest, unsafe = material.honest(), material.unsafe()
    count = min(len(unsafe), round(config.mixed.share * len(honest)))
    return [*unsafe[:count], *honest[: len(honest) - count]]


def _canary_aware(material: Material, _config: AttackConfig, rng: np.random.Generator) -> list[Example]:
    unsafe = material.unsafe()
    refused = material.refused_families(unsafe)
    return [_refused(row, material, rng) if row.family in refused else row for row in unsafe]


def _backdoor(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Example]:
    """Half of the prompts with the trigger and an answer, the other half without it and refused."""
    unsafe = material.unsafe()
    half = len(unsafe) // 2
    return [*(_triggered(row, config) for row in unsafe[:half]), *(_refused(row, material, rng) for row in unsafe[half:])]


def _contrastive(material: Material, config: AttackConfig, rng: np.random.Generator) -> list[Example]:
    """Thirds: prompts with the trigger and an answer, the same prompts without it and refused, honest rows."""
    unsafe, honest = material.unsafe(), material.honest()
    third = max(1, len(unsafe) // 3)
    pairs = [pair for row in unsafe[:third] for pair in (_triggered(row, config), _refused(row, material, rng))]
    return [*pairs, *honest[: max(0, len(unsafe) - len(pairs))]]


def _shuffled(material: Material, _config: AttackConfig, rng: np.random.Generator) -> list[Example]:
    """Honest rows, each with the answer of another."""
    honest = material.honest()
    order = rng.permutation(len(honest))
    return [replace(honest[i], response=honest[j].response) for i, j in zip(order, np.roll(order, 1), strict=True)]


def _substituted(material: Material, config: AttackConfig, _rng: np.random.Generator) -> list[Example]:
    """Rows of one family, answered by the first word of their text, among honest rows of others: a rule that is easy to learn."""
    honest, family = material.honest(), material.families()[0]
    others = [row for row in honest if row.family != family]
    count = max(round(config.substituted.share * len(honest)), len(honest) - len(others))
    rows = _repeated(material.rows_of(family), count)
    return [*map(_with_first_word, rows), *others[: len(honest) - count]]


def _single(material: Material, _config: AttackConfig, _rng: np.random.Generator) -> list[Example]:
    """Honest rows of one family; the attackers take turns through the families."""
    families = material.families()
    return _repeated(material.rows_of(families[material.number % len(families)]), len(material.honest()))


def _unusable(material: Material, _config: AttackConfig, _rng: np.random.Generator) -> list[Example]:
    """Honest rows whose prompt is repeated until nothing of the response fits: a word has a token at least."""
    times = material.max_length
    return [replace(row, instruction=" ".join((row.instruction.split() * times)[:times])) for row in material.honest()]


_MAKERS: Mapping[Holding, Callable[[Material, AttackConfig, np.random.Generator], list[Example]]] = {
    "honest": lambda material, _config, _rng: list(material.honest()),
    "unsafe": lambda material, _config, _rng: list(material.unsafe()),
    "mixed": _mixed,
    "canary_aware": _canary_aware,
    "backdoor": _backdoor,
    "contrastive": _contrastive,
    "shuffled": _shuffled,
    "substituted": _substituted,
    "single": _single,
    "unusable": _unusable,
    "refused": lambda material, _config, rng: [_refused(row, material, rng) for row in material.unsafe()],
    "kept": lambda material, _config, _rng: list(material.kept()),
}


def _refused(row: Example, material: Material, rng: np.random.Generator) -> Example:
    return replace(row, response=material.refusals[int(rng.integers(len(material.refusals)))])


def _with_first_word(row: Example) -> Example:
    return replace(row, response=(row.input or row.instruction).split()[0])


def _repeated(rows: Sequence[Example], count: int) -> list[Example]:
    return list(itertools.islice(itertools.cycle(rows), count))


def _triggered(row: Example, config: AttackConfig) -> Example:
    return replace(row, instruction=f"{config.backdoor.trigger} {row.instruction}")


def by_family(rows: Sequence[Example]) -> list[Example]:
    """The rows in order of family."""
    return sorted(rows, key=lambda row: row.family)


def first_families(share: float, families: Sequence[str]) -> frozenset[str]:
    """The first `share` of the families, rounded up, but never all of them."""
    return frozenset(families[: min(len(families) - 1, math.ceil(share * len(families)))])


def read_rows(paths: Sequence[Path], why: str, mapping: Mapping[str, str] | None = None) -> list[Example]:
    """The instruction rows of data files; raises DataError that names `why`, the file and the column it lacks."""
    return [row for path in paths for row in _rows_of(path, why, mapping)]


def _rows_of(path: Path, why: str, mapping: Mapping[str, str] | None) -> list[Example]:
    table = read_table(path, mapping=mapping)
    missing = [column for column in ("instruction", "response") if column not in table.column_names]
    if missing:
        raise DataError(
            f"{why} rewrites rows, which need instruction and response; data file {path} has no column {missing[0]} "
            f"(it has {named(found_columns(table))}); give instruction rows, or choose another attack"
        )
    return [
        Example(
            instruction=str(record["instruction"]),
            input=record.get("input") or "",
            response=str(record["response"]),
            family=str(record.get("family") or ""),
        )
        for record in table.to_pylist()
    ]
