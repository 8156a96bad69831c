"""The embedded world's files: a data set per client, the evaluation's held-out prompts, and the rows that the server owns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.files import Files
from actors.data.records import Example
from actors.seeding import stream
from actors.world.generator import Maker, World, draw
from actors.world.mixtures import Mixture

CANARY_ROLES = ("canary", "calibration", "collection")
"""Erosion differs from family to family, so a server needs refusals of many kinds to see it. The reference clients of a refresh
train on the families of another role: a canary of their own families would call them worse than clients."""
REALIGNMENT_ROLES = ("canary", "live_reference", "calibration")
"""Roles that give the rows for realignment: the server's own during a run, none of them the federation's or the evaluation's."""
_MOST_DRAWS_IN_VAIN = 100
"""Draws of known prompts in a row after which a family counts as used up."""


def write_clients(
    world: World, folder: Path, client_ids: Iterable[str], samples: int, seed: int, mixtures: Mapping[str, Mixture] | None = None
) -> dict[str, Files]:
    """Write a Parquet file of `samples` rows per client and return client id -> its files.

    Args:
        seed: The run's.
        mixtures: Client id -> what its rows are drawn from.
    """
    files = {}
    for client_id in client_ids:
        rows = honest_rows(world, client_id, (mixtures or {}).get(client_id), samples, seed)
        files[client_id] = (str(write_parquet(folder / f"{client_id}.parquet", rows).resolve()),)
    return files


def honest_rows(world: World, client_id: str, mixture: Mixture | None, samples: int, seed: int) -> list[Example]:
    """A client's rows, from a random stream of its own; without a mixture evenly from the federation's benign families."""
    mixture = mixture or Mixture(families=world.roles["federation"].benign)
    return mixture.rows(world, samples, stream(seed, "world data", world.seed, client_id))


def write_evaluation(world: World, folder: Path, num_restricted: int, num_benign: int) -> tuple[Path, Path]:
    """Write restricted.jsonl and benign.jsonl with distinct held-out prompts of the federation's families.

    The prompts depend on the world alone, so runs of any seed can be compared prompt by prompt.
    """
    families = world.roles["federation"]
    restricted = _distinct(world, world.refused_example, families.restricted, num_restricted)
    benign = _distinct(world, world.benign_example, families.benign, num_benign)
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _write_jsonl(
            folder / "restricted.jsonl",
            ({"instruction": e.instruction, "family": e.family, "answer_pattern": world.answer_pattern(e)} for e in restricted),
        ),
        _write_jsonl(
            folder / "benign.jsonl",
            ({"instruction": e.instruction, "input": e.input, "response": e.response, "family": e.family} for e in benign),
        ),
    )


def write_canary(world: World, folder: Path, count: int) -> Path:
    """Write canary.parquet: refused prompts of families of which no client has rows, nor a reference client of a refresh.

    The same for every run.
    """
    families = [name for role in CANARY_ROLES for name in world.roles[role].restricted]
    rows = draw(world.refused_example, families, count, stream(world.seed, "canary"))
    return write_parquet(folder / "canary.parquet", rows)


def write_validation(world: World, folder: Path, count: int) -> Path:
    """Write a folder with a file for each of the federation's benign families: rows as an honest client has, the same for every
    run."""
    families, rng = world.roles["federation"].benign, stream(world.seed, "validation")
    for family in families:
        rows = [world.benign_example(family, rng) for _ in range(max(1, count // len(families)))]
        write_parquet(folder / "validation" / f"{family}.parquet", rows)
    return folder / "validation"


def write_realignment(world: World, folder: Path, samples: int, refusal_share: float) -> Path:
    """Write realignment.parquet: rows that no client has, a share of them refused prompts; the same for every run.

    The server fine-tunes the final adapter on them (Ye et al., arXiv 2406.10630).
    """
    roles = [world.roles[role] for role in REALIGNMENT_ROLES]
    restricted = [name for role in roles for name in role.restricted]
    benign = [name for role in roles for name in role.benign]
    num_refused, rng = round(refusal_share * samples), stream(world.seed, "realignment")
    rows = draw(world.refused_example, restricted, num_refused, rng)
    return write_parquet(folder / "realignment.parquet", rows + draw(world.benign_example, benign, samples - num_refused, rng))


def write_parquet(path: Path, examples: Sequence[Example]) -> Path:
    """Columns instruction, input and response; nothing in the file tells which client has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [getattr(e, name) for e in examples] for name in ("instruction", "input", "response")}
    pq.write_table(pa.table(columns), path)
    return path


def _distinct(world: World, make: Maker, families: Sequence[str], count: int) -> list[Example]:
    """Up to `count` held-out examples with different prompts; families with few prompts give what they have."""
    shares = [count // len(families) + (index < count % len(families)) for index in range(len(families))]
    return [example for name, share in zip(families, shares, strict=True) for example in _distinct_of(world, make, name, share)]


def _distinct_of(world: World, make: Maker, family: str, count: int) -> list[Example]:
    rng, in_vain = stream(world.seed, "evaluation", family), 0
    found: dict[tuple[str, str], Example] = {}
    while len(found) < count and in_vain < _MOST_DRAWS_IN_VAIN:
        example = make(family, rng, held_out=True)
        prompt = (example.instruction, example.input)
        in_vain = in_vain + 1 if prompt in found else 0
        found.setdefault(prompt, example)
    return list(found.values())


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
