"""Instruction data: from Parquet and JSONL files to conversations.

A row has chat `messages`, or else `instruction`, optional `input`, and `response`. Errors name the file, and the row or column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from actors.data.prompting import Message, user_message
from actors.errors import DataError

SUFFIXES = (".parquet", ".jsonl")
_ROLES = ("system", "user", "assistant")
_ROWS_AT_ONCE = 1024
"""Rows that are Python objects at one time."""

Files: TypeAlias = tuple[str, ...]
"""Paths of one client's data files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One instruction with its answer. `family` and `subject` never enter a client's file."""

    instruction: str
    input: str
    response: str
    family: str = ""
    subject: str = ""
    """Embedded world: the person or place that a restricted instruction asks about."""


def read_table(path: Path) -> pa.Table:
    """The file as an Arrow table.

    Raises:
        DataError: missing, empty, unreadable, or neither Parquet nor JSONL.
    """
    if not path.is_file():
        raise DataError(f"data file {path} does not exist")
    if path.suffix not in SUFFIXES:
        raise DataError(f"data file {path} is neither .parquet nor .jsonl")
    if path.stat().st_size == 0:
        raise DataError(f"data file {path} is empty")
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.json.read_json(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"data file {path} cannot be read: {error}") from error
    if table.num_rows == 0:
        raise DataError(f"data file {path} has no rows")
    return table


def read_checked(path: Path) -> pa.Table:
    """As `read_table`, but reads every row as training will, so a bad row is found before anything starts.

    Raises:
        DataError: as `read_table` and `conversations`.
    """
    table = read_table(path)
    for _ in conversations(table, path):
        pass
    return table


def conversations(table: pa.Table, path: Path) -> Iterator[list[Message]]:
    """One conversation per row, in file order; raises DataError that names the file and the row (from 0)."""
    _check_columns(table.column_names, path)
    batches = table.to_batches(max_chunksize=_ROWS_AT_ONCE)
    for row, record in enumerate(record for batch in batches for record in batch.to_pylist()):
        is_chat = record.get("messages") is not None or "instruction" not in record
        yield _from_messages(record["messages"], path, row) if is_chat else _from_instruction(record, path, row)


def write_conversations(path: Path, rows: Sequence[Sequence[Message]]) -> Path:
    """Write a Parquet file of conversations, in the one column `messages`."""
    pq.write_table(pa.table({"messages": [list(messages) for messages in rows]}), path)
    return path


def _check_columns(names: Sequence[str], path: Path) -> None:
    if "messages" in names:
        return
    missing = [column for column in ("instruction", "response") if column not in names]
    if missing:
        raise DataError(
            f"data file {path} has no column {' and no column '.join(missing)} (it has {sorted(names)}); "
            "rows need instruction, response and optionally input, or chat messages"
        )


def _from_instruction(record: dict[str, object], path: Path, row: int) -> list[Message]:
    instruction, response = (text_of(record, column, path, row) for column in ("instruction", "response"))
    return [user_message(instruction, str(record.get("input") or "")), {"role": "assistant", "content": response}]


def _from_messages(messages: object, path: Path, row: int) -> list[Message]:
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError as error:
            raise bad_row(path, row, f"messages is text but not JSON, got {messages!r:.80}") from error
    if not isinstance(messages, list) or not messages:
        raise bad_row(path, row, f"messages should be a non-empty list, got {messages!r:.80}")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            raise bad_row(path, row, f"a message needs a role among {_ROLES} and text content, got {message!r:.80}")
    if not any(message["role"] == "assistant" for message in messages):
        raise bad_row(path, row, "no assistant message, so there is nothing to learn from")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def text_of(record: dict[str, object], column: str, path: Path, row: int) -> str:
    """The text in a row's column; raises DataError where there is none."""
    text = record.get(column)
    if not isinstance(text, str) or not text.strip():
        raise bad_row(path, row, f"{column} should be non-empty text, got {text!r:.80}")
    return text


def bad_row(path: Path, row: int, what: str) -> DataError:
    """The error of a row that cannot be used."""
    return DataError(f"data file {path}, row {row}: {what}; correct the row or remove it")
