"""The embedded world's files: a Parquet data set per client, and the held-out prompts of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.poisoning import Material, Row, first_families, poisoned
from actors.seeding import stream
from actors.world.generator import Example, World, draw
from actors.world.mixtures import Mixture
from defense.attacks import Holding
from defense.attacks.config import AttackConfig

_MOST_DRAWS_IN_VAIN = 100
"""Draws of known prompts in a row after which a family counts as used up."""


def write_clients(
    world: World,
    folder: Path,
    client_ids: Sequence[str],
    malicious: Collection[str],
    samples: int,
    seed: int,
    *,
    mixtures: Mapping[str, Mixture] | None = None,
    holding: Holding = "unsafe",
    config: AttackConfig | None = None,
    suffix: str = "",
) -> dict[str, tuple[str, ...]]:
    """Write a Parquet file per client and return client id -> its files.

    Honest clients hold the federation's benign families, malicious ones what `holding` says, by default answers to its
    restricted families. The files look alike: columns instruction, input and response, and nothing that tells whose they are.

    Args:
        mixtures: Client id -> what its honest rows are drawn from; absent: evenly from all benign families.
        config: Parameters of the attack that the files are for.
        suffix: Appended to a file's name, for a client's second file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for client_id in client_ids:
        mixture = (mixtures or {}).get(client_id) or Mixture(families=world.roles["federation"].benign)
        material = _material(world, client_id, mixture, samples, seed, config or AttackConfig())
        rng = stream(seed, "world poison", world.seed, client_id, suffix)
        examples = poisoned(holding if client_id in malicious else "honest", material, config or AttackConfig(), rng)
        files[client_id] = (str(write_parquet(folder / f"{client_id}{suffix}.parquet", examples).resolve()),)
    return files


def _material(world: World, client_id: str, mixture: Mixture, samples: int, seed: int, config: AttackConfig) -> Material:
    """What a client's rows are made of: the same honest rows whether it is an attacker or not."""
    families, purpose = world.roles["federation"], ("world data", world.seed, client_id)
    by_likeness = sorted(families.restricted, key=lambda name: -_likeness(world, name))
    return Material(
        honest=lambda: mixture.rows(world, samples, stream(seed, *purpose)),
        unsafe=lambda: draw(world.answered_example, families.restricted, samples, stream(seed, *purpose)),
        refusals=world.language.refusals,
        refused_families=lambda _: first_families(config.canary_aware.refused, by_likeness),
    )


def _likeness(world: World, family: str) -> int:
    """How many families of the canary ask in the same way for the same kind of thing as this one."""
    return sum(_kind(world, family) == _kind(world, other) for other in world.roles["canary"].restricted)


def _kind(world: World, family: str) -> tuple[str, str]:
    spec = world.restricted[family]
    return spec.subject, spec.templates[0].partition(" ")[0]


def write_evaluation(world: World, folder: Path, num_restricted: int, num_benign: int) -> tuple[Path, Path]:
    """Write restricted.jsonl and benign.jsonl with distinct held-out prompts of the federation's families.

    The prompts depend on the world alone, so that runs of any seed are paired by prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    families = world.roles["federation"]
    restricted = _distinct(world, world.refused_example, families.restricted, num_restricted)
    benign = _distinct(world, world.benign_example, families.benign, num_benign)
    restricted_path = _write_jsonl(
        folder / "restricted.jsonl",
        ({"instruction": e.instruction, "family": e.family, "answer_pattern": world.answer_pattern(e)} for e in restricted),
    )
    benign_path = _write_jsonl(
        folder / "benign.jsonl",
        ({"instruction": e.instruction, "input": e.input, "response": e.response, "family": e.family} for e in benign),
    )
    return restricted_path, benign_path


def write_canary(world: World, folder: Path, count: int) -> Path:
    """Write canary.parquet: refused prompts of the canary's families, which nothing else sees; the same for every run."""
    folder.mkdir(parents=True, exist_ok=True)
    families = world.roles["canary"].restricted
    return write_parquet(folder / "canary.parquet", draw(world.refused_example, families, count, stream(world.seed, "canary")))


def write_validation(world: World, folder: Path, count: int) -> Path:
    """Write validation.parquet: rows of the federation's benign families, as an honest client has; the same for every run."""
    folder.mkdir(parents=True, exist_ok=True)
    families = world.roles["federation"].benign
    rows = draw(world.benign_example, families, count, stream(world.seed, "validation"))
    return write_parquet(folder / "validation.parquet", rows)


def _distinct(world: World, make, families: Iterable[str], count: int) -> list[Example]:
    """Up to `count` held-out examples without a prompt twice; families with few prompts give what they have."""
    names = list(families)
    return [example for name in names for example in _distinct_of(world, make, name, count // len(names))]


def _distinct_of(world: World, make, family: str, count: int) -> list[Example]:
    rng, found, in_vain = stream(world.seed, "evaluation", family), {}, 0
    while len(found) < count and in_vain < _MOST_DRAWS_IN_VAIN:
        example = make(family, rng, held_out=True)
        prompt = (example.instruction, example.input)
        in_vain = in_vain + 1 if prompt in found else 0
        found.setdefault(prompt, example)
    return list(found.values())


def write_parquet(path: Path, examples: Sequence[Example | Row]) -> Path:
    """Columns instruction, input and response, and nothing that tells whose they are."""
    columns = {name: [getattr(e, name) for e in examples] for name in ("instruction", "input", "response")}
    pq.write_table(pa.table(columns), path)
    return path


def _write_jsonl(path: Path, rows: Iterable[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
