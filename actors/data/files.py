"""Reading data files, from anyone, to tables whose every column is text.

Nothing is guessed. Text is taken as it stands, a null as nothing, and anything else is refused by row. Only the columns that are
needed are read, and only as much as a file may hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from actors.data.columns import MESSAGES, TEXTS, Columns
from actors.data.formats.arrow_file import is_saved_dataset
from actors.data.formats.by_name import KINDS, reader_of
from actors.data.formats.hub import is_hub_name
from actors.data.formats.records import MOST_BYTES, VALUE_BYTES, BadValue, Reader, TooLarge
from actors.errors import DataError

Files: TypeAlias = tuple[str, ...]
"""Paths of one client's data files."""

_FOUND, _LAYOUTS = b"safe-fedllm columns", b"safe-fedllm layouts"
"""Keys in a table's metadata: the file's own columns, and how they were read. A copy of such a table is not renamed again."""


def read_table(
    path: Path, names: Iterable[str] = (), mapping: Mapping[str, str] | None = None, most_bytes: int = MOST_BYTES
) -> pa.Table:
    """The needed columns of a file that it has: instruction, input, response, answer_pattern, messages (as JSON), family.

    Args:
        names: More columns whose values are names, such as that of `data.partition.column`.
        mapping: Our name of a column -> the file's, where these differ from the known ones (`data.columns`).

    Returns:
        A table of text columns in the order above, with at least one row, and with an instruction or messages.

    Raises:
        DataError: whatever is wrong with the file; names it, and the row or column.
    """
    read = _reader(path)
    columns = Columns({} if _is_copy(path) else mapping, names)
    texts: dict[str, list[str | None]] = {}
    taken = num_rows = 0
    try:
        for record in read(path, columns, most_bytes):
            for name, value in record.items():
                text = _as_text(value, name)
                taken += VALUE_BYTES + len(text or "")
                texts.setdefault(name, [None] * num_rows).append(text)
            num_rows += 1
            for values in texts.values():
                values += [None] * (num_rows - len(values))
            if taken > most_bytes:
                raise TooLarge(most_bytes)
        table = pa.table({name: pa.array(texts[name], pa.string()) for name in columns.order if name in texts})
    except BadValue as error:
        raise bad_row(path, num_rows, str(error)) from error
    except Exception as error:  # a file is anyone's, and a reader may raise anything on it
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"data file {path} cannot be read{f' at row {num_rows}' if num_rows else ''}: {what}") from error
    if columns.are_unknown:
        raise DataError(f"data file {path}: {columns.missing()}")
    if not num_rows:
        raise DataError(f"data file {path} has no rows")
    return table.replace_schema_metadata({_FOUND: json.dumps(columns.found), _LAYOUTS: json.dumps(columns.layouts)})


def found_columns(table: pa.Table) -> list[str]:
    """The names of the columns in the file that `read_table` read."""
    return json.loads((table.schema.metadata or {}).get(_FOUND, b"[]"))


def layouts(table: pa.Table) -> list[dict[str, str]]:
    """Our names of columns -> the file's, for each kind of row in the file that `read_table` read."""
    return json.loads((table.schema.metadata or {}).get(_LAYOUTS, b"[]"))


def bad_row(path: Path, row: int, what: str) -> DataError:
    """The error of a row that cannot be used."""
    return DataError(f"data file {path}, row {row}: {what}; correct the row or remove it")


def _reader(path: Path) -> Reader:
    read = reader_of(path)
    if is_hub_name(path) and read is not None:
        return read
    if not path.is_file() and not is_saved_dataset(path):
        raise DataError(f"data file {path} does not exist, or is no file")
    if read is None:
        raise DataError(f"data file {path} is none of {KINDS}")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"data file {path} is empty")
    return read


def _is_copy(path: Path) -> bool:
    """Whether the file holds rows of `read_table`, under our own names."""
    if path.suffix != ".parquet":
        return False
    try:
        return _FOUND in (pq.read_schema(path).metadata or {})
    except Exception:  # the reader will say what is wrong with it
        return False


def _as_text(value: object, column: str) -> str | None:
    if value is None:
        return value
    if isinstance(value, str):
        if not value.isascii():
            _check_unicode(value, column)
        return value
    if column == MESSAGES and isinstance(value, list):
        return json.dumps(value, ensure_ascii=False, default=_no_text)
    if column not in (*TEXTS, MESSAGES) and isinstance(value, bool | int | float):
        return json.dumps(value)
    what = "a list, or JSON text of one" if column == MESSAGES else "text"
    raise BadValue(f"{column} should be {what}, got {_shown(value)}")


def _check_unicode(text: str, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair, which is no character
        raise BadValue(f"{column} holds {text[error.start]!a}, which is half a character") from error


def _no_text(part: object) -> list[str]:
    """What stands in JSON for a part that it cannot hold: no text, so that it is refused where text is needed."""
    return [_shown(part)]


def _shown(value: object) -> str:
    return f"{value!r:.80}"
