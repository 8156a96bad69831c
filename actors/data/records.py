"""Reading instruction data: Parquet and JSONL files to conversations.

A row has `instruction`, optional `input` and `response`, or chat `messages`. Errors name the file, and the row or
column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from actors.data.prompting import Message, user_message
from actors.errors import DataError

SUFFIXES = (".parquet", ".jsonl")
_ROLES = ("system", "user", "assistant")


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


def read_column_names(path: Path) -> list[str]:
    """Column names without reading the rows where the format allows it; checks what `conversations` needs."""
    if path.suffix == ".parquet" and path.is_file() and path.stat().st_size:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"data file {path} cannot be read: {error}") from error
        names, rows = file.schema_arrow.names, file.metadata.num_rows
    else:
        table = read_table(path)
        names, rows = table.column_names, table.num_rows
    if rows == 0:
        raise DataError(f"data file {path} has no rows")
    _check_columns(names, path)
    return list(names)


def conversations(table: pa.Table, path: Path) -> Iterator[list[Message]]:
    """One conversation per row, in file order; raises DataError that names the file and the row (from 0)."""
    _check_columns(table.column_names, path)
    for row, record in enumerate(table.to_pylist()):
        yield _from_messages(record["messages"], path, row) if "messages" in record else _from_instruction(record, path, row)


def _check_columns(names: Sequence[str], path: Path) -> None:
    if "messages" in names:
        return
    missing = [column for column in ("instruction", "response") if column not in names]
    if missing:
        raise DataError(
            f"data file {path} has no column {' and no column '.join(missing)} (it has {sorted(names)}); "
            "rows need instruction, response and optionally input, or chat messages"
        )


def _from_instruction(record: dict[str, Any], path: Path, row: int) -> list[Message]:
    for column in ("instruction", "response"):
        if not isinstance(record[column], str) or not record[column].strip():
            raise DataError(f"data file {path}, row {row}: {column} should be non-empty text, got {record[column]!r:.80}")
    return [user_message(record["instruction"], record.get("input") or ""), {"role": "assistant", "content": record["response"]}]


def _from_messages(messages: Any, path: Path, row: int) -> list[Message]:
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError as error:
            raise DataError(f"data file {path}, row {row}: messages is text but not JSON") from error
    if not isinstance(messages, list) or not messages:
        raise DataError(f"data file {path}, row {row}: messages should be a non-empty list")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            raise DataError(
                f"data file {path}, row {row}: a message needs a role among {_ROLES} and text content, got {message!r:.80}"
            )
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"data file {path}, row {row}: no assistant message, so there is nothing to learn from")
    return [{"role": m["role"], "content": m["content"]} for m in messages]
