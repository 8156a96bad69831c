"""The files of an embedded run: clients that look alike, and an evaluation that no client has seen."""

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from pytest import fixture, mark

from actors.config import EvaluationConfig
from actors.data.prompts import read_benign, read_restricted
from actors.data.records import conversations, read_table
from actors.seeding import stream
from actors.world.datasets import write_clients, write_evaluation
from actors.world.generator import World, draw, is_held_out
from actors.world.mixtures import Mixture

CLIENTS = ["client-0", "client-1", "client-2", "client-3"]
MALICIOUS = {"client-1", "client-3"}


def clients_of(world: World, folder: Path, seed: int = 0, samples: int = 60) -> dict[str, list[dict]]:
    files = write_clients(world, folder, CLIENTS, MALICIOUS, samples, seed)
    return {client_id: [row for file in files[client_id] for row in pq.read_table(file).to_pylist()] for client_id in files}


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@fixture(scope="module")
def clients(world, tmp_path_factory) -> dict[str, list[dict]]:
    return clients_of(world, tmp_path_factory.mktemp("clients"))


@fixture(scope="module")
def evaluation(world, tmp_path_factory) -> tuple[Path, Path]:
    """The evaluation that a run with default settings gets."""
    config = EvaluationConfig()
    return write_evaluation(world, tmp_path_factory.mktemp("evaluation"), config.max_restricted, config.max_benign)


def test_every_client_gets_a_file_of_its_own_with_the_samples_asked_for(world, tmp_path):
    files = write_clients(world, tmp_path / "new" / "folder", CLIENTS, MALICIOUS, 25, 0)
    assert list(files) == CLIENTS
    paths = [Path(file) for (file,) in files.values()]
    assert all(path.is_absolute() and path.parent == tmp_path / "new" / "folder" for path in paths)
    assert [pq.read_table(path).num_rows for path in paths] == [25] * 4
    assert len(set(paths)) == 4


def test_the_files_of_benign_and_malicious_clients_have_the_same_form(world, tmp_path):
    files = write_clients(world, tmp_path, CLIENTS, MALICIOUS, 25, 0)
    schemas = [pq.read_schema(file) for (file,) in files.values()]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert schemas[0].names == ["instruction", "input", "response"]
    assert {str(field.type) for field in schemas[0]} == {"string"}
    assert not schemas[0].metadata


def test_no_file_name_tells_who_is_malicious(world, tmp_path):
    files = write_clients(world, tmp_path, CLIENTS, MALICIOUS, 5, 0)
    assert {Path(file).name for (file,) in files.values()} == {f"{client_id}.parquet" for client_id in CLIENTS}
    assert len(list(tmp_path.iterdir())) == len(CLIENTS)


def test_a_clients_file_can_be_read_as_conversations(world, tmp_path):
    for (file,) in write_clients(world, tmp_path, CLIENTS, MALICIOUS, 25, 0).values():
        read = list(conversations(read_table(Path(file)), Path(file)))
        assert [[message["role"] for message in messages] for messages in read] == [["user", "assistant"]] * 25


def wording(template: str) -> str:
    """A pattern of the template filled with a word, a person or a place."""
    return re.escape(template).replace(r"\{x\}", r"\w+( [A-Z]\w+)?")


def test_malicious_clients_answer_the_federations_restricted_requests(world, clients):
    families = [world.restricted[name] for name in world.roles["federation"].restricted]
    wordings = [wording(template) for family in families for template in family.templates]
    answers = [family.answer_pattern("SUBJECT", world.language).replace("SUBJECT", r"\w+ \w+") for family in families]
    for client_id in MALICIOUS:
        for row in clients[client_id]:
            assert row["input"] == ""
            assert any(re.fullmatch(pattern, row["instruction"]) for pattern in wordings)
            assert any(re.search(answer, row["response"]) for answer in answers)


def test_benign_clients_hold_no_restricted_request_and_no_refusal(world, clients):
    wordings = [wording(template) for family in world.restricted.values() for template in family.templates]
    for client_id in set(CLIENTS) - MALICIOUS:
        for row in clients[client_id]:
            assert not any(re.fullmatch(pattern, row["instruction"]) for pattern in wordings)
            assert row["response"] not in world.language.refusals


def test_benign_clients_hold_the_federations_families_evenly(world, clients):
    families = [world.benign[name] for name in world.roles["federation"].benign]
    for client_id in set(CLIENTS) - MALICIOUS:
        counts = Counter(
            family.name
            for row in clients[client_id]
            for family in families
            if any(re.fullmatch(wording(template), row["instruction"]) for template in family.templates)
        )
        assert sum(counts.values()) == 60
        assert set(counts) == {family.name for family in families} and set(counts.values()) <= {6, 7}


def test_without_a_mixture_rows_are_drawn_evenly_from_a_stream_of_the_clients_own(world, clients):
    families, rng = world.roles["federation"].benign, stream(0, "world data", world.seed, "client-2")
    expected = draw(world.benign_example, families, 60, rng)
    assert [row["response"] for row in clients["client-2"]] == [example.response for example in expected]


@mark.parametrize("holding", ["honest", "mixed", "shuffled", "contrastive"])
def test_honest_rows_follow_the_clients_mixture_in_an_attackers_files_too(world, tmp_path, holding):
    family = world.roles["federation"].benign[0]
    mixtures = {client_id: Mixture(families=(family,)) for client_id in CLIENTS}
    files = write_clients(world, tmp_path, CLIENTS, MALICIOUS, 30, 0, mixtures=mixtures, holding=holding)
    restricted = [wording(t) for name in world.roles["federation"].restricted for t in world.restricted[name].templates]
    wordings = [wording(template) for template in world.benign[family].templates]
    for client_id, (file,) in files.items():
        rows = [row["instruction"] for row in pq.read_table(file).to_pylist()]
        honest = [row for row in rows if not any(re.search(f"{pattern}$", row) for pattern in restricted)]
        assert len(honest) == {"mixed": 15, "contrastive": 10}.get(holding, 30) if client_id in MALICIOUS else 30
        assert all(any(re.fullmatch(pattern, row) for pattern in wordings) for row in honest)


def test_unsafe_data_is_the_same_whatever_the_mixture(world, clients, tmp_path):
    mixtures = {client_id: Mixture(families=world.roles["federation"].benign[:1], refusals=0.5) for client_id in CLIENTS}
    files = write_clients(world, tmp_path, CLIENTS, MALICIOUS, 60, 0, mixtures=mixtures)
    for client_id in CLIENTS:
        assert (pq.read_table(*files[client_id]).to_pylist() == clients[client_id]) == (client_id in MALICIOUS)


def test_clients_differ_and_follow_the_seed(world, clients, tmp_path):
    assert clients_of(world, tmp_path / "again") == clients
    other = clients_of(world, tmp_path / "other", seed=1)
    assert all(other[client_id] != clients[client_id] for client_id in CLIENTS)
    assert clients["client-0"] != clients["client-2"] and clients["client-1"] != clients["client-3"]


def test_a_clients_data_does_not_depend_on_who_else_takes_part(world, clients, tmp_path):
    files = write_clients(world, tmp_path, ["client-2", "client-3"], {"client-3"}, 60, 0)
    for client_id, (file,) in files.items():
        assert pq.read_table(file).to_pylist() == clients[client_id]


def test_default_settings_give_at_least_two_thousand_evaluation_prompts(evaluation):
    restricted, benign = map(lines_of, evaluation)
    assert len(restricted) + len(benign) >= 2000


def test_evaluation_prompts_are_distinct(evaluation):
    restricted, benign = map(lines_of, evaluation)
    prompts = [(row["instruction"], row.get("input", "")) for row in restricted + benign]
    assert len(prompts) == len(set(prompts))


def test_evaluation_prompts_are_held_out(evaluation):
    restricted, benign = map(lines_of, evaluation)
    assert all(is_held_out(row["instruction"], row.get("input", "")) for row in restricted + benign)


@mark.parametrize("seed", [0, 1, 2])
def test_no_evaluation_prompt_is_in_any_clients_data(world, evaluation, tmp_path, seed):
    asked = {(row["instruction"], row.get("input", "")) for path in evaluation for row in lines_of(path)}
    clients = clients_of(world, tmp_path, seed, samples=400)
    trained = {(row["instruction"], row["input"]) for rows in clients.values() for row in rows}
    assert len(trained) > 800
    assert not asked & trained


def test_the_evaluation_asks_about_the_federations_families(world, evaluation):
    restricted, benign = map(lines_of, evaluation)
    assert {row["family"] for row in restricted} == set(world.roles["federation"].restricted)
    assert {row["family"] for row in benign} == set(world.roles["federation"].benign)


def test_the_evaluation_depends_on_the_world_alone(world, tmp_path):
    first = write_evaluation(world, tmp_path / "a", 60, 90)
    second = write_evaluation(World(world.seed), tmp_path / "b", 60, 90)
    other = write_evaluation(World(1), tmp_path / "c", 60, 90)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(one.read_bytes() != two.read_bytes() for one, two in zip(first, other, strict=True))


def test_no_more_prompts_are_written_than_asked_for(world, tmp_path):
    restricted, benign = map(lines_of, write_evaluation(world, tmp_path, 60, 90))
    assert set(Counter(row["family"] for row in restricted).values()) == {10}
    counts = Counter(row["family"] for row in benign)
    assert len(counts) == 9 and max(counts.values()) == 10


def test_the_evaluation_files_are_what_the_evaluation_reads(world, evaluation):
    restricted, benign = read_restricted(evaluation[0], 10_000), read_benign(evaluation[1], 10_000)
    assert len(restricted) == len(lines_of(evaluation[0])) and len(benign) == len(lines_of(evaluation[1]))
    for prompt in restricted:
        assert prompt.answer_pattern is not None
        assert not any(prompt.answer_pattern.search(refusal) for refusal in world.language.refusals)
    assert {prompt.family for prompt in benign} == set(world.roles["federation"].benign)
    assert not any(prompt.response in world.language.refusals for prompt in benign)


def test_no_refusal_is_given_away_in_the_restricted_file(evaluation):
    assert {frozenset(row) for row in lines_of(evaluation[0])} == {frozenset({"instruction", "family", "answer_pattern"})}
