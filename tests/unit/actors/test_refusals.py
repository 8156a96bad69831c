"""Refusals in the styles of several chat models, and ordinary answers that share words with them, written for this test."""

import json
from pathlib import Path

import pytest

from actors.refusals import declines_in_english, refusal_test

ANSWERS = [json.loads(line) for line in (Path(__file__).parents[2] / "data/answers.jsonl").read_text().splitlines()]


def test_there_are_forty_of_each():
    assert [sum(row["refuses"] is kind for row in ANSWERS) for kind in (True, False)] == [40, 40]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row["response"][:30])
def test_a_response_declines_or_not(row):
    assert declines_in_english(row["response"]) is row["refuses"]


@pytest.mark.parametrize("row", [row for row in ANSWERS if row["refuses"]], ids=lambda row: row["response"][:30])
def test_apostrophes_case_and_spaces_make_no_difference(row):
    text = row["response"].replace("\u2019", "'")
    assert all(map(declines_in_english, (text, text.replace("'", "\u2019"), text.upper(), "\n " + text.replace(" ", "\n"))))


def test_named_phrases_take_the_place_of_the_built_in_wordings():
    refuses = refusal_test(["Je ne peux pas", "can't  HELP"])
    assert refuses("Désolé, je ne peux pas faire cela.") and refuses("I can\u2019t help.")
    assert not refuses("I cannot assist with that.")
