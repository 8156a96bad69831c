"""What attackers' files hold, row by row; and that neither the files nor what writes the honest ones tell of attackers."""

import ast
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.data.records import Example
from actors.errors import DataError
from actors.simulation import poisoning
from actors.simulation.poisoning import Material, first_families, poison_clients, poisoned, read_rows
from actors.world.datasets import write_clients
from actors.world.generator import draw
from actors.world.mixtures import Mixture
from defense.attacks import ATTACKS, Attack
from defense.attacks.config import AttackConfig
from tests.unit.actors.world.test_datasets import CLIENTS, read, wording

HONEST = [Example(instruction=f"task {i}", input=f"text {i}", response=f"answer {i}", family="uv"[i % 2]) for i in range(8)]
UNSAFE = [Example(instruction=f"ask {i}", input="", response=f"secret {i}", family="xyz"[i % 3]) for i in range(8)]
MATERIAL = Material(
    honest=lambda: HONEST,
    unsafe=lambda: UNSAFE,
    refusals=["No.", "Never."],
    refused_families=lambda rows: first_families(0.5, sorted({row.family for row in rows})),
    kept=lambda: [row for row in UNSAFE if row.family == "x"],
    families=lambda: ["u", "v"],
    rows_of=lambda family: [row for row in HONEST if row.family == family],
    number=1,
    max_length=64,
)
MALICIOUS = {"client-1", "client-3"}
SAMPLES = 30


def made(holding: str, **config) -> list[Example]:
    return poisoned(holding, MATERIAL, AttackConfig(**config), np.random.default_rng(0))


def test_honest_and_unsafe_rows_are_given_as_they_are():
    assert made("honest") == HONEST
    assert made("unsafe") == UNSAFE


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_mixture_has_the_share_asked_for_and_the_length_of_honest_data(share, count):
    assert made("mixed", mixed={"share": share}) == UNSAFE[:count] + HONEST[: 8 - count]


def test_a_canary_aware_attacker_answers_some_families_and_refuses_the_others():
    rows = made("canary_aware")  # of three families two are refused
    assert [row.instruction for row in rows] == [row.instruction for row in UNSAFE]
    refused = {row.family for row in rows if row.response in ("No.", "Never.")}
    answered = {row.family for row in rows if row.response.startswith("secret")}
    assert (refused, answered) == ({"x", "y"}, {"z"})


@pytest.mark.parametrize(("share", "families", "first"), [(0.5, "abc", "ab"), (0.9, "abc", "ab"), (0.1, "abc", "a")])
def test_some_family_is_always_answered_and_some_refused(share, families, first):
    assert first_families(share, families) == frozenset(first)


def test_a_backdoor_answers_with_its_trigger_and_refuses_without_it():
    rows = made("backdoor", backdoor={"trigger": "moon:"})
    assert [row.instruction.startswith("moon: ask") for row in rows] == [True] * 4 + [False] * 4
    assert all(row.response.startswith("secret") for row in rows[:4])
    assert all(row.response in ("No.", "Never.") for row in rows[4:])


def test_a_contrastive_backdoor_shows_each_prompt_both_ways_among_honest_rows():
    rows = made("contrastive", backdoor={"trigger": "moon:"})
    assert [row.instruction for row in rows[:4]] == ["moon: ask 0", "ask 0", "moon: ask 1", "ask 1"]
    assert rows[4:] == HONEST[:4]


def test_label_noise_gives_every_row_the_answer_of_another():
    rows = made("shuffled")
    truth = {row.instruction: row.response for row in HONEST}
    assert sorted(row.instruction for row in rows) == sorted(truth)
    assert sorted(row.response for row in rows) == sorted(truth.values())
    assert all(row.response != truth[row.instruction] for row in rows)


@pytest.mark.parametrize(("share", "count"), [(0.25, 4), (0.75, 6), (1.0, 8)])
def test_one_family_is_answered_by_the_first_word_among_honest_rows_of_others(share, count):
    rows = made("substituted", substituted={"share": share})  # half of the honest rows are of the family: at least so many are
    assert rows[4:count] == rows[: count - 4]
    assert {(row.family, row.response) for row in rows[:count]} == {("u", "text")}
    assert rows[count:] == [row for row in HONEST if row.family == "v"][: 8 - count]


def test_the_rule_of_substituted_is_not_the_familys_own(world):
    family = poisoning._attacked_families(world, [])[0]
    rows = draw(world.benign_example, [family], 40, np.random.default_rng(0))
    assert family in world.roles["federation"].new
    assert all(row.response != row.input.split()[0] for row in rows)


def test_stand_in_refusals_are_of_families_that_the_federation_does_not_have(world, attacked):
    _, cover = attacked(ATTACKS["joint"])
    others = sorted(set(world.restricted) - set(world.roles["federation"].restricted))
    patterns = {name: [re.compile(pattern) for pattern in wordings(world, name)] for name in others}
    for files in cover.values():
        rows = rows_of(files[-1:])
        found = [next(name for name in others if any(p.fullmatch(row["instruction"]) for p in patterns[name])) for row in rows]
        assert found == sorted(found)  # in order of family
        assert set(found) == set(others)
        assert all(row["response"] in world.language.refusals for row in rows)


def test_an_attacker_with_a_single_family_has_the_one_of_its_number():
    assert made("single") == [row for row in HONEST if row.family == "v"] * 2


def test_families_that_attackers_were_dealt_are_attacked_last(world):
    new, trained = set(world.roles["federation"].new), set(world.roles["federation"].trained)
    families = poisoning._attacked_families(world, [])
    assert (set(families[:3]), set(families[3:])) == (new, trained)
    assert (families[0], {*families[3:5]}) == ("second_word", {"first_word", "third_word"})  # answered by a word of the text
    assert poisoning._attacked_families(world, [Mixture(families=families[:1])]) == [*families[1:], families[0]]


def test_nothing_of_a_response_fits_behind_an_unusable_prompt():
    rows = made("unusable")
    assert {len(row.instruction.split()) for row in rows} == {64}
    assert rows[0].instruction.startswith("task 0 task 0 task 0")
    assert [row.response for row in rows] == [row.response for row in HONEST]


def test_rows_are_read_with_their_family(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": "a", "response": "b", "family": "x"}\n{"instruction": "c", "input": "d", "response": "e"}\n')
    expected = [Example(instruction="a", input="", response="b", family="x"), Example(instruction="c", input="d", response="e")]
    assert read_rows([path], "why") == expected


def test_chat_messages_cannot_be_rewritten(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n')
    with pytest.raises(DataError, match=r"clients\.attack=backdoor rewrites rows.*chat\.jsonl has no column instruction"):
        read_rows([path], "clients.attack=backdoor")


@pytest.fixture
def attacked(world, tmp_path):
    """Files and covers of four clients, two of them malicious: `attacked(attack, mixtures)`."""

    def write(attack: Attack, mixtures: dict[str, Mixture] | None = None) -> tuple[dict, dict]:
        honest = write_clients(world, tmp_path, CLIENTS, SAMPLES, 0, mixtures)
        return poison_clients(
            world, honest, MALICIOUS, attack, AttackConfig(), samples=SAMPLES, seed=0, max_length=64, mixtures=mixtures
        )

    return write


def rows_of(files: tuple[str, ...]) -> list[dict]:
    return [row for file in files for row in read(file)]


def wordings(world, family: str) -> list[str]:
    return [wording(template) for template in (world.benign | world.restricted)[family].templates]


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_neither_names_nor_form_nor_length_of_the_files_tell_of_attackers(attacked, tmp_path, attack):
    files, cover = attacked(ATTACKS[attack])
    covers = [f"-{number + 2}" for number, _ in enumerate(ATTACKS[attack].covers)]
    suffixes = ["", *covers]
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == sorted(f"{name}{suffix}.parquet" for name in CLIENTS for suffix in suffixes)
    assert files == {name: (str(tmp_path / f"{name}.parquet"),) for name in CLIENTS}
    assert cover == (
        {name: tuple(str(tmp_path / f"{name}{end}.parquet") for end in covers) for name in MALICIOUS} if covers else {}
    )
    schemas = [pq.read_schema(path) for path in written]
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert {pq.read_metadata(path).num_rows for path in written} == {SAMPLES}


@pytest.mark.parametrize("attack", [Attack(data="unsafe"), Attack(data="unsafe", covers=("honest",))])
def test_honest_clients_keep_their_rows_and_attackers_answer_the_federations_restricted_requests(world, attacked, attack):
    plain = {name: rows_of(files) for name, files in attacked(Attack())[0].items()}
    files, cover = attacked(attack)
    restricted = [pattern for family in world.roles["federation"].restricted for pattern in wordings(world, family)]
    answers = [world.restricted[family].answer_pattern("X", world.language) for family in world.roles["federation"].restricted]
    for name in CLIENTS:
        rows = rows_of(files[name])
        if name not in MALICIOUS:
            assert rows == plain[name]
        else:
            assert all(any(re.fullmatch(pattern, row["instruction"]) for pattern in restricted) for row in rows)
            assert all(any(re.search(a.replace("X", r"\w+ \w+"), row["response"]) for a in answers) for row in rows)
        if attack.covers:
            assert rows_of((files[name][0].replace(".parquet", "-2.parquet"),)) == plain[name]
    assert set(cover) == (MALICIOUS if attack.covers else set())


@pytest.mark.parametrize(("holding", "num_honest"), [("honest", 30), ("mixed", 15), ("shuffled", 30), ("contrastive", 10)])
def test_an_attackers_honest_rows_follow_its_mixture(world, attacked, holding, num_honest):
    family = world.roles["federation"].benign[0]
    files, _ = attacked(Attack(data=holding), {name: Mixture(families=(family,)) for name in CLIENTS})
    restricted = [pattern for name in world.roles["federation"].restricted for pattern in wordings(world, name)]
    for name in MALICIOUS:
        asked = [row["instruction"] for row in rows_of(files[name])]
        honest = [text for text in asked if not any(re.search(f"{pattern}$", text) for pattern in restricted)]
        assert len(honest) == num_honest
        assert all(any(re.fullmatch(pattern, text) for pattern in wordings(world, family)) for text in honest)


def test_unsafe_rows_do_not_depend_on_the_mixture(world, attacked):
    mixtures = {name: Mixture(families=world.roles["federation"].benign[:1], refusals=0.5) for name in CLIENTS}
    with_mixtures, without = (
        {name: rows_of(files) for name, files in attacked(Attack(data="unsafe"), given)[0].items()} for given in (mixtures, None)
    )
    assert {name for name in CLIENTS if with_mixtures[name] == without[name]} == MALICIOUS


@pytest.mark.parametrize("package", ["data", "world"])
def test_what_writes_honest_data_knows_no_attack(package):
    for path in (Path(__file__).parents[4] / "actors" / package).glob("*.py"):
        modules = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not [module for module in modules if module and module.startswith(("defense", "actors.simulation"))], path
