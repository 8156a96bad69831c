"""What the server realigns the embedded world's adapter with (Ye et al., arXiv 2406.10630): rows that no client has."""

from __future__ import annotations

from pathlib import Path

from actors.seeding import stream
from actors.world.datasets import write_parquet
from actors.world.generator import World, draw

ROLES = ("canary", "live_reference", "calibration")
"""Roles whose families the rows are of: the server's own during a run, none of them the federation's or the evaluation's."""


def write_realignment(world: World, folder: Path, samples: int, refusal_share: float) -> Path:
    """Write realignment.parquet: `samples` rows, a share of them restricted prompts with refusals; the same for every run."""
    folder.mkdir(parents=True, exist_ok=True)
    families = [world.roles[role] for role in ROLES]
    restricted = [name for role in families for name in role.restricted]
    benign = [name for role in families for name in role.benign]
    num_refused, rng = round(refusal_share * samples), stream(world.seed, "realignment")
    rows = draw(world.refused_example, restricted, num_refused, rng)
    return write_parquet(folder / "realignment.parquet", rows + draw(world.benign_example, benign, samples - num_refused, rng))
