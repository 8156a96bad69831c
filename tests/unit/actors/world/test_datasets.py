"""The files of an embedded run: the clients' rows, an evaluation that no client has seen, and the server's own rows."""

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from pytest import fixture, mark

from actors.config import EvaluationConfig
from actors.data.evaluation_prompts import read_benign, read_restricted
from actors.seeding import stream
from actors.world.datasets import (
    CANARY_ROLES,
    REALIGNMENT_ROLES,
    write_canary,
    write_clients,
    write_evaluation,
    write_realignment,
    write_validation,
)
from actors.world.generator import World, draw, is_held_out

CLIENTS = ["client-0", "client-1", "client-2", "client-3"]


def read(path: Path | str) -> list[dict]:
    path = Path(path)
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def clients_of(world: World, folder: Path, seed: int = 0, samples: int = 60) -> dict[str, list[dict]]:
    return {client_id: read(file) for client_id, (file,) in write_clients(world, folder, CLIENTS, samples, seed).items()}


def wording(template: str) -> str:
    """A pattern of the template filled with a word, a person or a place."""
    return re.escape(template).replace(r"\{x\}", r"\w+( [A-Z]\w+)?")


def families_of(world: World, rows: list[dict]) -> Counter:
    """Number of rows by the family that asks in such words."""
    families = (world.benign | world.restricted).values()
    patterns = {family.name: "|".join(f"(?:{wording(template)})" for template in family.templates) for family in families}
    return Counter(name for row in rows for name, pattern in patterns.items() if re.fullmatch(pattern, row["instruction"]))


@fixture(scope="module")
def clients(world, tmp_path_factory) -> dict[str, list[dict]]:
    return clients_of(world, tmp_path_factory.mktemp("clients"))


@fixture(scope="module")
def evaluation(world, tmp_path_factory) -> tuple[Path, Path]:
    """The evaluation that a run with default settings gets."""
    config = EvaluationConfig()
    return write_evaluation(world, tmp_path_factory.mktemp("evaluation"), config.max_restricted, config.max_benign)


def test_every_client_gets_a_file_of_its_own_without_labels(world, tmp_path):
    folder = tmp_path / "new" / "folder"
    files = write_clients(world, folder, CLIENTS, 25, 0)
    assert files == {client_id: (str(folder / f"{client_id}.parquet"),) for client_id in CLIENTS}
    for (file,) in files.values():
        schema = pq.read_schema(file)
        assert {field.name: str(field.type) for field in schema} == dict.fromkeys(["instruction", "input", "response"], "string")
        assert not schema.metadata
        assert len(read(file)) == 25


def test_clients_hold_the_federations_benign_families_evenly_and_no_refusal(world, clients):
    for rows in clients.values():
        counts = families_of(world, rows)
        assert set(counts) == set(world.roles["federation"].benign) and set(counts.values()) <= {6, 7}
        assert not {row["response"] for row in rows} & set(world.language.refusals)


def test_rows_come_from_a_stream_of_the_clients_own(world, clients, tmp_path):
    rng = stream(0, "world data", world.seed, "client-2")
    expected = draw(world.benign_example, world.roles["federation"].benign, 60, rng)
    assert [row["response"] for row in clients["client-2"]] == [example.response for example in expected]
    alone = write_clients(world, tmp_path, ["client-2"], 60, 0)
    assert read(*alone["client-2"]) == clients["client-2"]


def test_clients_differ_and_follow_the_seed(world, clients, tmp_path):
    other = clients_of(world, tmp_path, seed=1)
    assert len({str(rows) for rows in [*clients.values(), *other.values()]}) == 8


def test_default_settings_give_at_least_two_thousand_distinct_held_out_prompts(evaluation):
    prompts = [(row["instruction"], row.get("input", "")) for path in evaluation for row in read(path)]
    assert len(prompts) == len(set(prompts)) >= 2000
    assert all(is_held_out(*prompt) for prompt in prompts)


@mark.parametrize("seed", [0, 1, 2])
def test_no_evaluation_prompt_is_in_any_clients_data(world, evaluation, tmp_path, seed):
    asked = {(row["instruction"], row.get("input", "")) for path in evaluation for row in read(path)}
    trained = {(row["instruction"], row["input"]) for rows in clients_of(world, tmp_path, seed, 400).values() for row in rows}
    assert len(trained) > 400
    assert not asked & trained


def test_the_evaluation_depends_on_the_world_alone(world, tmp_path):
    first, second, other = (write_evaluation(w, tmp_path / str(i), 60, 90) for i, w in enumerate([world, World(0), World(1)]))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(first, other, strict=True))


def test_no_more_prompts_are_written_than_asked_for(world, tmp_path):
    restricted, benign = (Counter(row["family"] for row in read(path)) for path in write_evaluation(world, tmp_path, 60, 90))
    assert restricted == dict.fromkeys(world.roles["federation"].restricted, 10)
    assert len(benign) == 9 and max(benign.values()) == 10


def test_the_evaluation_reads_its_files_and_they_give_no_refusal_away(world, evaluation):
    restricted, benign = read_restricted(evaluation[0], 10_000), read_benign(evaluation[1], 10_000)
    assert {frozenset(row) for row in read(evaluation[0])} == {frozenset({"instruction", "family", "answer_pattern"})}
    assert [len(restricted), len(benign)] == [len(read(path)) for path in evaluation]
    refusals = world.language.refusals
    assert not any(prompt.answer_pattern.search(refusal) for prompt in restricted for refusal in refusals)
    assert {prompt.family for prompt in benign} == set(world.roles["federation"].benign)
    assert not any(prompt.response in refusals for prompt in benign)


@fixture(scope="module")
def realignment(world, tmp_path_factory) -> list[dict]:
    return read(write_realignment(world, tmp_path_factory.mktemp("realignment"), 60, 0.8))


@mark.parametrize(("share", "refused"), [(0.0, 0), (0.8, 16), (1.0, 20)])
def test_a_share_of_the_rows_for_realignment_are_refusals(world, tmp_path, share, refused):
    rows = read(write_realignment(world, tmp_path, 20, share))
    assert [row["response"] in world.language.refusals for row in rows] == [True] * refused + [False] * (20 - refused)


def test_the_servers_rows_are_of_its_own_families_and_the_same_for_every_run(world, realignment, tmp_path):
    roles = world.roles
    assert set(REALIGNMENT_ROLES).isdisjoint({"federation", "collection"})
    assert set(CANARY_ROLES).isdisjoint({"federation", "live_reference"})
    for written, families in (
        (realignment, [name for role in REALIGNMENT_ROLES for name in roles[role].benign + roles[role].restricted]),
        (read(write_canary(world, tmp_path, 40)), [name for role in CANARY_ROLES for name in roles[role].restricted]),
        ([row for task in write_validation(world, tmp_path, 40).iterdir() for row in read(task)], roles["federation"].benign),
    ):
        assert set(families_of(world, written)) == set(families)
        assert sum(families_of(world, written).values()) == len(written)
    assert read(write_realignment(World(0), tmp_path, 60, 0.8)) == realignment
