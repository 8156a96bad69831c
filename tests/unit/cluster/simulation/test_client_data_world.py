"""The files of the embedded world's clients: partitions, refusals, attacks; nothing in them tells which client attacks."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.config.schema import RunConfig
from cluster.data.own_data import client_names
from cluster.simulation.client_data import assign_recipes, draw_malicious, world_files
from cluster.state.membership import Files
from defense.attacks import ATTACKS
from tests.unit.actors.world.test_datasets import wording
from tests.unit.cluster.data.builders import embedded_config, join, rows_of

RECIPES = "clients.recipes=[{refusals: 0.5}, {}, {refusals: 0.25}]"


def config_of(*overrides: str) -> RunConfig:
    return embedded_config("data.samples_per_client=40", *overrides)


def files_of(config: RunConfig, folder: Path) -> dict[str, Files]:
    return world_files(config, folder, draw_malicious(config))[0]


def read(files: dict[str, Files]) -> dict[str, list[dict]]:
    """Client id -> its rows."""
    return {client_id: pq.read_table(*paths).to_pylist() for client_id, paths in files.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, list[str]]:
    """Client id -> its rows where all clients are honest."""
    files = files_of(embedded_config("clients.malicious=0"), tmp_path_factory.mktemp("plain"))
    return {client_id: rows_of(paths) for client_id, paths in files.items()}


def largest_family(world, rows: list[dict]) -> int:
    """How many of the rows have a wording of the family that most of them have."""
    texts = [row["instruction"] for row in rows]
    families = [[wording(template) for template in world.benign[name].templates] for name in world.roles["federation"].benign]
    return max(sum(any(re.fullmatch(pattern, text) for pattern in family) for text in texts) for family in families)


@pytest.mark.parametrize(
    ("partition", "least", "most"),
    [
        (["by=iid"], 5, 5),
        (["by=dirichlet", "alpha=0.1"], 15, 40),
        (["by=column"], 40, 40),
        (["by=column", "column=family"], 40, 40),
    ],
)
def test_honest_rows_are_partitioned_by_family(world, tmp_path, partition, least, most):
    config = config_of("clients.malicious=2", *(f"data.partition.{part}" for part in partition))
    even, own = read(files_of(config_of("clients.malicious=2"), tmp_path / "a")), read(files_of(config, tmp_path / "b"))
    malicious = draw_malicious(config)
    assert all(own[client_id] == even[client_id] for client_id in malicious)
    assert all(least <= largest_family(world, rows) <= most for name, rows in own.items() if name not in malicious)


@pytest.mark.parametrize("by", ["iid", "dirichlet", "column"])
def test_a_client_that_joins_has_the_files_that_it_would_have_had_from_the_start(tmp_path, by):
    overrides = ("clients.malicious=0", f"data.partition.by={by}", RECIPES)
    config = config_of(*overrides, "clients.count=5")
    joined = join(config, tmp_path, files_of(config, tmp_path), 4)
    whole = read(files_of(config_of(*overrides, "clients.count=9"), tmp_path / "whole"))
    assert read(joined) == {client_id: whole[client_id] for client_id in client_names(9)[5:]}


def test_a_client_that_joins_has_the_refusals_of_its_recipe(world, tmp_path):
    config = config_of("clients.count=5", "clients.malicious=2", RECIPES)
    joined = join(config, tmp_path, files_of(config, tmp_path), 4)
    recipes = assign_recipes(config.clients.recipes, client_names(9), draw_malicious(config))
    for client_id, rows in read(joined).items():
        assert sum(row["response"] in world.language.refusals for row in rows) == 40 * recipes[client_id].refusals


def test_honest_clients_hold_the_refusals_of_their_recipes_and_attackers_none(world, tmp_path):
    config = config_of("clients.malicious=2", "clients.attack=label_noise", "clients.recipes=[{refusals: 0.5}, {steps: 5}]")
    rows, malicious = read(files_of(config, tmp_path)), draw_malicious(config)
    counts = {client_id: sum(row["response"] in world.language.refusals for row in own) for client_id, own in rows.items()}
    assert [counts[client_id] for client_id in sorted(rows) if client_id not in malicious] == [20, 0] * 4
    assert {counts[client_id] for client_id in malicious} == {0}


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_files_do_not_tell_which_client_attacks_and_honest_rows_stay(name, plain, tmp_path):
    config = embedded_config(f"clients.attack={name}")
    malicious, folder = draw_malicious(config), tmp_path / "attacked"
    files, cover = world_files(config, folder, malicious)
    assert set(cover) == (malicious if ATTACKS[name].covers else set())
    suffixes = ("", *(f"-{number + 2}" for number, _ in enumerate(ATTACKS[name].covers)))
    assert {path.stem for path in folder.iterdir()} == {f"{client}{suffix}" for client in client_names(10) for suffix in suffixes}
    assert {tuple(pq.read_schema(path).names) for path in folder.iterdir()} == {("instruction", "input", "response")}
    assert all(rows_of(files[client]) == plain[client] for client in set(files) - malicious)


def test_an_attackers_cover_is_what_it_would_have_if_it_were_honest(plain, tmp_path):
    config = embedded_config("clients.attack=sleeper")
    cover = world_files(config, tmp_path, draw_malicious(config))[1]
    assert {client: rows_of(files) for client, files in cover.items()} == {client: plain[client] for client in cover}
