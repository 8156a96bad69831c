"""actors/data/poisoning.py: what an attacker's file holds, row by row."""

import numpy as np
import pytest

from actors.data.poisoning import Material, Row, first_families, poisoned, read_rows
from actors.errors import DataError
from defense.attacks.config import AttackConfig
from tests.unit.cluster.data.test_sources import write_rows

HONEST = [Row(instruction=f"task {i}", input="text", response=f"answer {i}") for i in range(8)]
UNSAFE = [Row(instruction=f"ask {i}", input="", response=f"secret {i}", family="xyz"[i % 3]) for i in range(8)]
MATERIAL = Material(
    honest=lambda: HONEST,
    unsafe=lambda: UNSAFE,
    refusals=["No.", "Never."],
    refused_families=lambda rows: first_families(0.5, sorted({row.family for row in rows})),
)


def made(holding: str, **config) -> list[Row]:
    return poisoned(holding, MATERIAL, AttackConfig(**config), np.random.default_rng(0))


def test_honest_and_unsafe_rows_are_given_as_they_are():
    assert made("honest") == HONEST
    assert made("unsafe") == UNSAFE


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_mixture_has_the_share_asked_for_and_the_length_of_honest_data(share, count):
    rows = made("mixed", mixed={"share": share})
    assert rows == UNSAFE[:count] + HONEST[: 8 - count]


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


def test_rows_are_read_with_their_family(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", 2, family=["x", "y"])
    assert read_rows([path], "why") == [Row(instruction=f"a {i}", input="", response="yes", family="xy"[i]) for i in range(2)]


def test_chat_messages_cannot_be_rewritten(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n')
    with pytest.raises(DataError, match=r"clients\.attack=backdoor rewrites rows.*chat\.jsonl has no column instruction"):
        read_rows([path], "clients.attack=backdoor")
