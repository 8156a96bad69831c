"""Instruction data from rows, and the errors that name the file and the row or column."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pytest import mark, raises

from actors.data.files import read_table
from actors.data.records import conversations, read_checked, write_conversations
from actors.errors import DataError

EACH_KIND = mark.parametrize("kind", ["data.parquet", "data.jsonl"])
GOOD = {"instruction": "Say a.", "response": "a"}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


CHAT = [{"role": "system", "content": "Be brief."}, user("Hi?"), assistant("Hi."), user("Why?"), assistant("Because.")]

SHAREGPT = [
    {"from": speaker, "value": message["content"]}
    for speaker, message in zip(["system", "human", "gpt", "user", "chatgpt"], CHAT, strict=True)
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
    """The message of the DataError that reading the file raises, checked or not; it must name the file."""
    with raises(DataError, match=re.escape(str(path))) as caught:
        read(path)
    with raises(DataError, match=re.escape(str(caught.value))):
        read_checked(path)
    return str(caught.value)


@EACH_KIND
@mark.parametrize(
    ("row", "conversation"),
    [
        (GOOD, [user("Say a."), assistant("a")]),
        ({**GOOD, "input": "b c"}, [user("Say a.\nb c"), assistant("a")]),
        *(({**GOOD, "input": nothing}, [user("Say a."), assistant("a")]) for nothing in ("", None)),
        ({**GOOD, "topic": "letters", "score": 3.5}, [user("Say a."), assistant("a")]),
        (  # to the letter
            {"instruction": "  Straße 東 🙂\t", "input": ' {"x": "\\n"} ', "response": "line\n\nline  "},
            [user('  Straße 東 🙂\t\n {"x": "\\n"} '), assistant("line\n\nline  ")],
        ),
        ({"messages": CHAT}, CHAT),
        ({"messages": json.dumps(CHAT)}, CHAT),
        ({"messages": [message | {"name": "Ada"} for message in CHAT]}, CHAT),
        ({**GOOD, "messages": CHAT[1:3]}, CHAT[1:3]),
        ({"conversations": SHAREGPT}, CHAT),
        ({"conversations": json.dumps(SHAREGPT)}, CHAT),
    ],
)
def test_a_row_becomes_a_conversation(tmp_path, kind, row, conversation):
    path = write(tmp_path / kind, [row, row])
    assert read(path) == [conversation] * 2
    assert read_checked(path) == read_table(path)


@EACH_KIND
def test_a_row_without_messages_may_be_an_instruction_where_others_are_chats(tmp_path, kind):
    chat = {"messages": CHAT[1:3], "instruction": None, "response": None}
    assert read(write(tmp_path / kind, [chat, {"messages": None, **GOOD}])) == [CHAT[1:3], [user("Say a."), assistant("a")]]
    bad = write(tmp_path / kind, [chat, {"messages": None, **GOOD, "response": None}])
    assert "row 1: response should be non-empty text, got None" in refuse(bad)


@EACH_KIND
@mark.parametrize(
    ("content", "complaint"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"PAR1 and nothing more", ("cannot be read", "line 1 is not JSON")),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind, content, complaint):
    if content is not None:
        (tmp_path / kind).write_bytes(content)
    said = refuse(tmp_path / kind)
    assert any(text in said for text in ([complaint] if isinstance(complaint, str) else complaint))


@mark.parametrize("name", ["data.tsv", "data.txt", "data", "data.parquet.gz"])
def test_other_kinds_of_file_are_refused(tmp_path, name):
    assert "is none of .parquet, .jsonl" in refuse(write(tmp_path / name, [GOOD]))


def test_a_directory_is_no_data_file(tmp_path):
    (tmp_path / "data.jsonl").mkdir()
    assert "does not exist" in refuse(tmp_path / "data.jsonl")


def test_a_file_without_rows_is_named(tmp_path):
    lines, table = tmp_path / "data.jsonl", tmp_path / "data.parquet"
    lines.write_text("\n\n")
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in GOOD}), table)
    assert "has no rows" in refuse(lines)
    assert "has no rows" in refuse(table)


@EACH_KIND
@mark.parametrize(
    ("row", "missing"),
    [
        ({"instruction": "a"}, "no column of responses"),
        ({"response": "b"}, "no known column holds its instructions or conversations"),
        ({"query": "a", "reply": "b"}, "no known column holds its instructions or conversations"),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, kind, row, missing):
    message = refuse(write(tmp_path / kind, [row]))
    assert missing in message and f"(it has {', '.join(row)})" in message


@EACH_KIND
@mark.parametrize(
    ("bad", "complaint"),
    [
        *(
            ({**GOOD, column: value}, f"{column} should be non-empty text")
            for column in ("instruction", "response")
            for value in (None, "", "  \n")
        ),
        *(
            ({"messages": [message, CHAT[2]]}, "a message needs a role among ('system', 'user', 'assistant') and text content")
            for message in (
                {"content": "Hi?"},
                {"role": "teacher", "content": "Hi?"},
                {"role": "user"},
                {"role": "user", "content": None},
            )
        ),
        *(
            (
                {"messages": [turn, SHAREGPT[2]]},
                "a message needs a role among ('system', 'user', 'assistant') and text content, or",
            )
            for turn in ({"from": "function_call", "value": "{}"}, {"from": "human", "value": None}, {"from": "bard"})
        ),
        ({"messages": [SHAREGPT[1], {"from": "gpt", "value": " "}]}, "an assistant message should have non-empty content"),
        ({"messages": CHAT[:2]}, "no assistant message"),
        *(({"messages": nothing}, "messages should be a non-empty list") for nothing in ([], None, "")),
        *(({"messages": text}, "messages is text but not JSON") for text in ("hello", "[" * 100_000)),
        *(({"messages": text}, "messages should be a non-empty list") for text in ("{}", "[]", '"user"')),
        *(
            ({"messages": text}, "a message needs a role")
            for text in ('["user"]', '[{"role": ["user"], "content": "a"}]', '[{"role": "user", "content": {"text": "a"}}]')
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, kind, bad, complaint):
    good = GOOD if "instruction" in bad else {"messages": json.dumps(CHAT) if isinstance(bad["messages"], str) else CHAT}
    path = write(tmp_path / kind, [good, bad])
    assert f"row 1: {complaint}" in refuse(path)
    assert next(conversations(read_table(path), path))  # rows before it are still given


@EACH_KIND
def test_text_that_is_a_number_is_named(tmp_path, kind):
    path = write(tmp_path / kind, [{"instruction": "2 + 2?", "response": 4}])
    assert "row 0: response should be text, got 4" in refuse(path)


def test_a_bad_row_behind_many_good_ones_is_named_with_its_number(tmp_path):
    path = write(tmp_path / "data.jsonl", [GOOD] * 2500 + [{**GOOD, "instruction": " "}])
    message = refuse(path)
    assert message.endswith("row 2500: instruction should be non-empty text, got ' '; correct the row or remove it")


def test_all_rows_that_cannot_be_used_are_listed(tmp_path):
    """Alpaca's own file has 28 empty outputs among 52,002 rows."""
    rows = [GOOD | {"response": "" if i % 10 == 5 else "a"} for i in range(400)]
    message = refuse(write(tmp_path / "data.jsonl", rows))
    assert "row 5: response should be non-empty text, got ''; correct the row or remove it; 39 more rows" in message
    assert message.endswith("cannot be used either: " + ", ".join(str(10 * i + 5) for i in range(1, 31)) + " ...")


def test_conversations_that_are_written_are_read_back(tmp_path):
    rows = [CHAT, CHAT[1:3]]
    assert read(write_conversations(tmp_path / "copy.parquet", rows)) == rows
