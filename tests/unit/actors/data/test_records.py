"""Instruction data from Parquet and JSONL, and the errors that name the file and the row or column."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pytest import fixture, mark, raises

from actors.data.records import conversations, read_checked, read_table, write_conversations
from actors.errors import DataError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
]


def write(path: Path, rows: Sequence[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[list[dict]]:
    return list(conversations(read_table(path), path))


def refuse(path: Path) -> str:
    """The message of the DataError that reading the file raises; it must name the file."""
    with raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@fixture(params=["data.parquet", "data.jsonl"])
def path(request, tmp_path) -> Path:
    return tmp_path / request.param


def test_instruction_rows_become_two_turns(path):
    write(path, [{"instruction": "Say hello.", "response": "Hello."}, {"instruction": "Say bye.", "response": "Bye."}])
    assert read(path) == [
        [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}],
        [{"role": "user", "content": "Say bye."}, {"role": "assistant", "content": "Bye."}],
    ]


def test_the_input_follows_the_instruction_on_lines_of_its_own(path):
    rows = [{"instruction": "Swap.", "input": text, "response": "b a"} for text in ("a b", "", None)]
    assert [messages[0]["content"] for messages in read(write(path, rows))] == ["Swap.\na b", "Swap.", "Swap."]


def test_text_is_kept_to_the_letter(path):
    odd = {"instruction": "  Straße 東 🙂\t", "input": ' {"x": "\\n"} ', "response": "line\n\nline  "}
    assert read(write(path, [odd])) == [
        [{"role": "user", "content": '  Straße 東 🙂\t\n {"x": "\\n"} '}, {"role": "assistant", "content": "line\n\nline  "}]
    ]


def test_other_columns_are_ignored(path):
    rows = [{"instruction": "Say a.", "response": "a", "topic": "letters", "score": 3.5}]
    assert read(write(path, rows)) == [[{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "a"}]]


def test_chat_messages_are_taken_as_they_are(path):
    assert read(write(path, [{"messages": CHAT}, {"messages": CHAT[1:3]}])) == [CHAT, CHAT[1:3]]


def test_chat_messages_may_be_stored_as_json_text(path):
    assert read(write(path, [{"messages": json.dumps(CHAT)}])) == [CHAT]


def test_other_keys_of_a_message_are_dropped(path):
    messages = [{"role": "user", "content": "Hi?", "name": "Ada"}, {"role": "assistant", "content": "Hi.", "name": "Bot"}]
    assert read(write(path, [{"messages": messages}])) == [CHAT[1:3]]


def test_messages_win_over_instruction_columns(path):
    rows = [{"instruction": "unused", "response": "unused", "messages": CHAT[1:3]}]
    assert read(write(path, rows)) == [CHAT[1:3]]


def test_a_missing_file_is_named(path):
    assert "does not exist" in refuse(path)


def test_a_directory_is_no_data_file(path):
    path.mkdir()
    assert "does not exist" in refuse(path)


def test_an_empty_file_is_named(path):
    path.touch()
    assert "is empty" in refuse(path)


def test_a_file_of_blank_lines_has_no_rows(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n\n")
    assert "has no rows" in refuse(path)


def test_a_table_without_rows_is_named(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"instruction": pa.array([], pa.string()), "response": pa.array([], pa.string())}), path)
    assert "has no rows" in refuse(path)


@mark.parametrize("name", ["data.csv", "data.json", "data", "data.parquet.gz"])
def test_other_kinds_of_file_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text('{"instruction": "a", "response": "b"}\n')
    assert "neither .parquet nor .jsonl" in refuse(path)


def test_a_parquet_file_cut_anywhere_is_refused(tmp_path):
    path = write(tmp_path / "data.parquet", [{"instruction": f"Say {i}.", "response": str(i)} for i in range(20)])
    whole = path.read_bytes()
    for length in range(1, len(whole), 17):
        path.write_bytes(whole[:length])
        assert "cannot be read" in refuse(path)


def test_a_file_that_is_not_parquet_inside_is_refused(tmp_path):
    path = tmp_path / "data.parquet"
    path.write_text('{"instruction": "a", "response": "b"}\n')
    assert "cannot be read" in refuse(path)


@mark.parametrize("text", ["{", "not json", '{"instruction": "a"', "[1, 2]", '{"instruction": "a"}{', "1"])
def test_a_file_that_is_not_json_lines_is_refused(tmp_path, text):
    path = tmp_path / "data.jsonl"
    path.write_text(text + "\n")
    assert "cannot be read" in refuse(path)


@mark.parametrize(
    ("row", "missing"),
    [
        ({"instruction": "a"}, "no column response"),
        ({"response": "b"}, "no column instruction"),
        ({"prompt": "a", "answer": "b"}, "no column instruction and no column response"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(path, row, missing):
    message = refuse(write(path, [row]))
    assert missing in message and str(sorted(row)) in message


@mark.parametrize("column", ["instruction", "response"])
@mark.parametrize("value", [None, "", "  \n"])
def test_text_that_is_missing_is_named_by_row_and_column(path, column, value):
    good = {"instruction": "Say a.", "response": "a"}
    assert f"row 1: {column} should be non-empty text" in refuse(write(path, [good, {**good, column: value}]))


def test_text_that_is_a_number_is_named_by_row_and_column(path):
    assert "row 0: response should be non-empty text, got 4" in refuse(write(path, [{"instruction": "2 + 2?", "response": 4}]))


@mark.parametrize(
    "bad",
    [
        {"content": "Hi?"},
        {"role": None, "content": "Hi?"},
        {"role": "teacher", "content": "Hi?"},
        {"role": "user"},
        {"role": "user", "content": None},
    ],
)
def test_a_message_without_role_or_content_is_named_by_row(path, bad):
    rows = [{"messages": CHAT[1:3]}, {"messages": [bad, CHAT[2]]}]
    assert "row 1: a message needs a role among ('system', 'user', 'assistant') and text content" in refuse(write(path, rows))


@mark.parametrize("messages", [CHAT[:2], CHAT[1:2]])
def test_a_conversation_without_an_assistant_is_named_by_row(path, messages):
    assert "row 1: no assistant message" in refuse(write(path, [{"messages": CHAT}, {"messages": messages}]))


@mark.parametrize("messages", [[], None])
def test_a_row_without_messages_is_named(path, messages):
    assert "row 1: messages should be a non-empty list" in refuse(write(path, [{"messages": CHAT}, {"messages": messages}]))


@mark.parametrize(
    ("text", "complaint"),
    [
        ("hello", "row 1: messages is text but not JSON"),
        ("", "row 1: messages is text but not JSON"),
        ("{}", "row 1: messages should be a non-empty list"),
        ("[]", "row 1: messages should be a non-empty list"),
        ('"user"', "row 1: messages should be a non-empty list"),
        ('["user"]', "row 1: a message needs a role"),
        ('[{"role": ["user"], "content": "a"}]', "row 1: a message needs a role"),
        ('[{"role": "user", "content": {"text": "a"}}]', "row 1: a message needs a role"),
    ],
)
def test_json_text_that_is_no_conversation_is_named_by_row(path, text, complaint):
    assert complaint in refuse(write(path, [{"messages": json.dumps(CHAT)}, {"messages": text}]))


def test_rows_before_a_bad_one_are_still_given(path):
    write(path, [{"instruction": "Say a.", "response": "a"}, {"instruction": "Say b.", "response": None}])
    rows = conversations(read_table(path), path)
    assert next(rows)[1]["content"] == "a"
    with raises(DataError, match="row 1"):
        next(rows)


def test_a_row_without_messages_may_be_an_instruction_where_others_are_chats(path):
    chat = {"messages": CHAT[1:3], "instruction": None, "response": None}
    assert read(write(path, [chat, {"messages": None, "instruction": "Say a.", "response": "a"}])) == [
        CHAT[1:3],
        [{"role": "user", "content": "Say a."}, {"role": "assistant", "content": "a"}],
    ]
    message = refuse(write(path, [chat, {"messages": None, "instruction": "Say a.", "response": None}]))
    assert "row 1: response should be non-empty text, got None" in message


def test_a_bad_row_behind_many_good_ones_is_named_with_its_number(path):
    rows = [{"instruction": f"Say {i}.", "response": str(i)} for i in range(2500)]
    message = refuse(write(path, [*rows, {"instruction": " ", "response": "a"}]))
    assert message.endswith("row 2500: instruction should be non-empty text, got ' '; correct the row or remove it")


def test_conversations_that_are_written_are_read_back(path, tmp_path):
    rows = [CHAT, CHAT[1:3]]
    assert read(write_conversations(tmp_path / "copy.parquet", rows)) == rows


def test_a_checked_file_is_the_table_of_one_whose_rows_can_all_be_used(path):
    write(path, [{"topic": "x", "response": "b", "instruction": "a"}])
    assert read_checked(path) == read_table(path)
    assert read_checked(write(path, [{"topic": "x", "messages": CHAT}])).column_names == ["topic", "messages"]


def test_a_file_that_could_not_be_used_does_not_pass(path):
    def complaint() -> str:
        with raises(DataError) as caught:
            read_checked(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "does not exist" in complaint()
    path.touch()
    assert "is empty" in complaint()
    path.write_bytes(b"PAR1 and nothing more")
    assert "cannot be read" in complaint()
    write(path, [{"instruction": "a"}])
    assert "no column response" in complaint()
    write(path, [{"instruction": "a", "response": "b"}, {"instruction": "a", "response": ""}])
    assert "row 1: response should be non-empty text" in complaint()


def test_a_checked_table_without_rows_is_refused(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"instruction": pa.array([], pa.string()), "response": pa.array([], pa.string())}), path)
    with raises(DataError, match="has no rows"):
        read_checked(path)
