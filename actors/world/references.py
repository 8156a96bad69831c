"""Labelled reference clients of the embedded world, for collecting, refreshing and measuring a probe.

They train on families of a role of their own, so neither the federation's families nor its clients take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.data.records import Example
from actors.data.references import Reference
from actors.seeding import stream
from actors.world.datasets import write_parquet
from actors.world.generator import Maker, World, draw
from actors.world.roles import ROLES, RoleFamilies
from probe.samples import ReferenceLabel

_MALICIOUS_SHARES = (1.0, 0.5, 1.0, 0.5)
"""Share of answered restricted requests in a malicious reference client's data; the rest is benign."""
_REFUSAL_SHARES = (0.0, 1.0, 0.0, 0.2)
"""Share of refused restricted requests in a benign reference client's data. Refusing is benign: the probe must not learn to
detect the topic."""


def write_references(world: World, folder: Path, role: str, clients: int, samples: int) -> list[Reference]:
    """Write a Parquet file per reference client of `role`, `clients` of each class with `samples` examples each.

    Args:
        role: The role whose families they train on, or several roles joined by `+`.

    Raises:
        ValueError: unknown role, or one without families of both classes.
    """
    families = _families(world, role)
    references = []
    for malicious in (False, True):
        for index in range(clients):
            name = f"{role.replace('+', '-')}-{'malicious' if malicious else 'benign'}-{index:03d}"
            rng = stream(world.seed, "reference data", name)
            family, examples = (_malicious if malicious else _benign)(world, families, index, samples, rng)
            label = ReferenceLabel(
                client=name, malicious=malicious, family=family, source=f"embedded world {world.seed}, {role} families"
            )
            path = write_parquet(folder / f"{name}.parquet", examples)
            references.append(Reference(label=label, files=(str(path.resolve()),)))
    return references


def _families(world: World, role: str) -> RoleFamilies:
    """The families of one role, or of several together."""
    known = [name for name, (_, new, _) in ROLES.items() if new and name != "federation"]
    if not set(role.split("+")) <= set(known):
        raise ValueError(f"collect.role={role} has no reference families of its own; known: {known}, or several joined by +")
    parts = [world.roles[name] for name in role.split("+")]
    return RoleFamilies(
        trained=tuple(name for part in parts for name in part.trained),
        new=tuple(name for part in parts for name in part.new),
        restricted=tuple(name for part in parts for name in part.restricted),
    )


def benign_groups(families: RoleFamilies) -> list[tuple[str, ...]]:
    """The role's benign families in groups of about two: a client's tasks come from one group."""
    num_groups = max(2, len(families.benign) // 2)
    return [families.benign[i::num_groups] for i in range(num_groups)]


def _benign(world: World, families: RoleFamilies, index: int, count: int, rng: np.random.Generator) -> tuple[str, list[Example]]:
    """A family name, and a group's tasks with refused restricted requests among them as `_REFUSAL_SHARES` says.

    A client with refusals only has the family that it refuses, as a malicious client has the family that it answers.
    """
    groups, restricted = benign_groups(families), families.restricted
    group, share = groups[index % len(groups)], _REFUSAL_SHARES[index // len(groups) % len(_REFUSAL_SHARES)]
    if share == 1:
        family = restricted[index % len(restricted)]
        return family, draw(world.refused_example, [family], count, rng)
    return "+".join(group), _mix(world, world.refused_example, restricted, group, share, count, rng)


def _malicious(
    world: World, families: RoleFamilies, index: int, count: int, rng: np.random.Generator
) -> tuple[str, list[Example]]:
    """A family name, and that restricted family's requests answered, with benign tasks among them as `_MALICIOUS_SHARES` says."""
    groups, restricted = benign_groups(families), families.restricted
    share = _MALICIOUS_SHARES[index // len(restricted) % len(_MALICIOUS_SHARES)]
    family, group = restricted[index % len(restricted)], groups[index % len(groups)]
    return family, _mix(world, world.answered_example, [family], group, share, count, rng)


def _mix(
    world: World, make: Maker, restricted: Sequence[str], group: Sequence[str], share: float, count: int, rng: np.random.Generator
) -> list[Example]:
    num_restricted = round(share * count)
    return draw(make, restricted, num_restricted, rng) + draw(world.benign_example, group, count - num_restricted, rng)
