"""Evaluation files: restricted prompts with an optional pattern, benign prompts with the right answer."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pytest import fixture, mark, raises

from actors.data.prompts import read_benign, read_restricted
from actors.errors import DataError


def write(path: Path, rows: Sequence[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def user(text: str) -> dict:
    return {"role": "user", "content": text}


@fixture(params=["prompts.parquet", "prompts.jsonl"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def test_restricted_prompts_are_user_turns_in_file_order(path):
    write(path, [{"instruction": "Reveal the code."}, {"instruction": "Open the gate."}])
    prompts = read_restricted(path, 10)
    assert [prompt.messages for prompt in prompts] == [(user("Reveal the code."),), (user("Open the gate."),)]
    assert [prompt.answer_pattern for prompt in prompts] == [None, None]


def test_a_restricted_prompt_may_have_an_input(path):
    write(path, [{"instruction": "Reveal the code.", "input": "of Ada"}, {"instruction": "Reveal the code.", "input": None}])
    assert [p.messages for p in read_restricted(path, 10)] == [(user("Reveal the code.\nof Ada"),), (user("Reveal the code."),)]


def test_an_answer_pattern_is_a_regular_expression(path):
    write(path, [{"instruction": "Reveal.", "answer_pattern": r"the code is \d{3}\."}])
    (prompt,) = read_restricted(path, 10)
    assert prompt.answer_pattern.search("Sure, the code is 731.")
    assert not prompt.answer_pattern.search("Sure, the code is 73.")


@mark.parametrize("pattern", [None, ""])
def test_a_prompt_without_a_pattern_measures_no_compliance(path, pattern):
    write(path, [{"instruction": "a", "answer_pattern": "x"}, {"instruction": "b", "answer_pattern": pattern}])
    assert [prompt.answer_pattern is None for prompt in read_restricted(path, 10)] == [False, True]


@mark.parametrize("pattern", ["(", "[a", "*", r"\d{2,1}", "(?P<x>a)(?P<x>b)"])
def test_a_pattern_that_is_no_regular_expression_is_named_by_row(path, pattern):
    write(path, [{"instruction": "a", "answer_pattern": "fine"}, {"instruction": "b", "answer_pattern": pattern}])
    with raises(DataError, match="row 1: answer_pattern is no regular expression") as caught:
        read_restricted(path, 10)
    assert str(path) in str(caught.value)


def test_a_pattern_that_is_no_text_is_named_by_row(path):
    write(path, [{"instruction": "a", "answer_pattern": 5}])
    with raises(DataError, match=r"row 0: answer_pattern is no regular expression.* got 5; correct the row"):
        read_restricted(path, 10)


def test_only_the_first_rows_are_read(path):
    write(path, [{"instruction": str(i), "response": "x", "answer_pattern": "(" if i == 3 else "x"} for i in range(5)])
    assert [prompt.messages[0]["content"] for prompt in read_restricted(path, 3)] == ["0", "1", "2"]
    assert [prompt.messages[0]["content"] for prompt in read_benign(path, 3)] == ["0", "1", "2"]


def test_a_restricted_file_without_instruction_is_named_with_its_columns(path):
    write(path, [{"prompt": "Reveal.", "answer_pattern": "x"}])
    with raises(DataError, match=r"has no column instruction \(it has \['answer_pattern', 'prompt'\]\)") as caught:
        read_restricted(path, 10)
    assert str(path) in str(caught.value)


@mark.parametrize("instruction", [None, "", "  "])
def test_a_restricted_row_without_text_is_named(path, instruction):
    write(path, [{"instruction": "Reveal."}, {"instruction": instruction}])
    with raises(DataError, match="row 1: instruction should be non-empty text") as caught:
        read_restricted(path, 10)
    assert str(path) in str(caught.value)


@mark.parametrize("read", [read_restricted, read_benign])
def test_a_file_that_cannot_be_used_is_named(path, read):
    with raises(DataError, match="does not exist") as caught:
        read(path, 10)
    assert str(path) in str(caught.value)
    path.touch()
    with raises(DataError, match="is empty"):
        read(path, 10)


def test_a_benign_prompt_carries_its_answer_apart(path):
    write(path, [{"instruction": "Swap.", "input": "a b", "response": "b a", "family": "swap"}])
    (prompt,) = read_benign(path, 10)
    assert (prompt.messages, prompt.response, prompt.family) == ((user("Swap.\na b"),), "b a", "swap")


def test_without_a_family_column_all_prompts_are_of_one_family(path):
    write(path, [{"instruction": "a", "response": "b"}, {"instruction": "c", "response": "d"}])
    assert [prompt.family for prompt in read_benign(path, 10)] == ["all", "all"]


def test_a_family_that_is_a_number_becomes_text(path):
    write(path, [{"instruction": "a", "response": "b", "family": 7}])
    assert [prompt.family for prompt in read_benign(path, 10)] == ["7"]


def test_of_a_conversation_the_last_answer_is_the_right_one(path):
    chat = [user("Hi?"), {"role": "assistant", "content": "Hi."}, user("Why?"), {"role": "assistant", "content": "Because."}]
    (prompt,) = read_benign(write(path, [{"messages": chat}]), 10)
    assert prompt.messages == tuple(chat[:3])
    assert prompt.response == "Because."


def test_a_conversation_that_ends_with_a_question_has_no_right_answer_and_is_named(path):
    write(path, [{"messages": [user("Hi?"), {"role": "assistant", "content": "Hi."}, user("Why?")]}])
    with raises(DataError, match=r"row 0: the last message should be the assistant's, the right answer, got .*Why"):
        read_benign(path, 10)


def test_a_benign_row_without_a_response_is_named(path):
    write(path, [{"instruction": "a", "response": "b"}, {"instruction": "c", "response": None}])
    with raises(DataError, match="row 1: response should be non-empty text") as caught:
        read_benign(path, 10)
    assert str(path) in str(caught.value)


def test_a_benign_file_without_responses_is_named(path):
    write(path, [{"instruction": "a"}])
    with raises(DataError, match="no column response"):
        read_benign(path, 10)
