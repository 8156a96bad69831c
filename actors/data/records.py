"""Instruction data: from the rows of data files to conversations.

A row has chat `messages`, or else `instruction`, optional `input`, and `response`; `Columns` finds them in the file. Errors name
the file, and the row or column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.chat import Message, user_message
from actors.data.columns import mapping_hint, named
from actors.data.files import bad_row, found_columns, layouts, read_table
from actors.errors import DataError

_ROLES = ("system", "user", "assistant")
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
"""Who speaks in a turn of ShareGPT's layout -> the role."""
_NOT_TEXT = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""Parts of a message that would be dropped, and without which its text is not what the assistant said."""
_ROWS_AT_ONCE = 1024
"""Rows that are Python objects at one time."""
_MOST_LISTED = 30

Record: TypeAlias = Mapping[str, str | None]
"""A row of `read_table`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One instruction with its answer. `family` and `subject` never enter a client's file."""

    instruction: str
    input: str
    response: str
    family: str = ""
    subject: str = ""
    """Embedded world: the person or place that a restricted instruction asks about."""


def read_checked(path: Path, names: Iterable[str] = (), mapping: Mapping[str, str] | None = None) -> pa.Table:
    """As `read_table`, but makes a conversation of every row, so that a bad row is found.

    Raises:
        DataError: as `read_table` and `conversations`.
    """
    table = read_table(path, names, mapping)
    for _ in conversations(table, path):
        pass
    return table


def conversations(table: pa.Table, path: Path) -> Iterator[list[Message]]:
    """One conversation per row of `read_table`, in file order.

    Raises:
        DataError: a row cannot be used; names the file, the row (from 0), and the numbers of further rows that cannot.
    """
    if "messages" not in table.column_names and "response" not in table.column_names:
        found = found_columns(table)
        raise DataError(f"data file {path} has no column of responses (it has {named(found)}); {mapping_hint(found)}")
    rows = enumerate_records(table)
    for row, record in rows:
        try:
            messages = conversation(record, path, row)
        except DataError as error:
            what = f"{error}{_own_names(table)}"
            more = [str(other) for other, record in rows if not _is_usable(record, path, other)]
            if not more:
                raise DataError(what) from error
            listed = ", ".join(more[:_MOST_LISTED]) + (" ..." if len(more) > _MOST_LISTED else "")
            raise DataError(f"{what}; {len(more)} more rows of the file cannot be used either: {listed}") from error
        yield messages


def conversation(record: Record, path: Path, row: int) -> list[Message]:
    """The conversation of one row; raises DataError that names the file and the row."""
    is_chat = record.get("messages") is not None or "instruction" not in record
    return _from_messages(record["messages"], path, row) if is_chat else _from_instruction(record, path, row)


def enumerate_records(table: pa.Table) -> Iterator[tuple[int, Record]]:
    """The rows of a table with their numbers, few of them as Python objects at one time."""
    batches = table.to_batches(max_chunksize=_ROWS_AT_ONCE)
    yield from enumerate(record for batch in batches for record in batch.to_pylist())


def _own_names(table: pa.Table) -> str:
    """How the file names the columns that an error is about, where it names them otherwise."""
    pairs = {
        f"{ours} is its column {theirs:.40}" for layout in layouts(table) for ours, theirs in layout.items() if ours != theirs
    }
    return f" ({', '.join(sorted(pairs))})" if pairs else ""


def _is_usable(record: Record, path: Path, row: int) -> bool:
    try:
        conversation(record, path, row)
    except DataError:
        return False
    return True


def write_conversations(path: Path, rows: Sequence[Sequence[Message]]) -> Path:
    """Write a Parquet file of conversations, in the one column `messages`."""
    pq.write_table(pa.table({"messages": [list(messages) for messages in rows]}), path)
    return path


def _from_instruction(record: Record, path: Path, row: int) -> list[Message]:
    instruction, response = (text_of(record, column, path, row) for column in ("instruction", "response"))
    return [user_message(instruction, record.get("input") or ""), {"role": "assistant", "content": response}]


def _from_messages(text: str | None, path: Path, row: int) -> list[Message]:
    try:
        messages = json.loads(text or "null")
    except (ValueError, RecursionError) as error:
        raise bad_row(path, row, f"messages is text but not JSON, got {text!r:.80}") from error
    if not isinstance(messages, list) or not messages:
        raise bad_row(path, row, f"messages should be a non-empty list, got {messages!r:.80}")
    checked = [_message(message, path, row) for message in messages]
    if not any(message["role"] == "assistant" for message in checked):
        raise bad_row(path, row, "no assistant message, so there is nothing to learn from")
    return checked


def _message(given: object, path: Path, row: int) -> Message:
    message = _from_sharegpt(given)
    if not isinstance(message, dict) or message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
        other = f", or from ({', '.join(_SPEAKERS)}) and text value" if message is not given else ""
        raise bad_row(path, row, f"a message needs a role among {_ROLES} and text content{other}, got {given!r:.80}")
    beside = [key for key in _NOT_TEXT if message.get(key)]
    if beside:
        raise bad_row(path, row, f"a message has {beside[0]}, and only the text of content is trained on, got {message!r:.80}")
    if message["role"] == "assistant" and not message["content"].strip():
        raise bad_row(path, row, f"an assistant message should have non-empty content, got {message!r:.80}")
    return {"role": message["role"], "content": message["content"]}


def _from_sharegpt(turn: object) -> object:
    """A turn of ShareGPT's `from` and `value` as a message; anything else as it is. A speaker that is not known gives no role."""
    if not isinstance(turn, dict) or turn.get("from") is None or turn.get("role") is not None:
        return turn
    speaker = turn["from"]
    return {**turn, "role": _SPEAKERS.get(speaker) if isinstance(speaker, str) else None, "content": turn.get("value")}


def text_of(record: Record, column: str, path: Path, row: int) -> str:
    """The text in a row's column; raises DataError where there is none."""
    text = record.get(column)
    if text is None or not text.strip():
        raise bad_row(path, row, f"{column} should be non-empty text, got {text!r:.80}")
    return text
