"""Reading data files: Parquet and JSONL, from anyone, to tables whose every column is text.

Nothing is guessed. Text is taken as it stands, a null as nothing, and anything else is refused by row. Only the columns that are
needed are read, and only as much as a file may hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import DataError

SUFFIXES = (".parquet", ".jsonl")
Files: TypeAlias = tuple[str, ...]
"""Paths of one client's data files."""

MOST_BYTES = 2**30
"""What the needed columns of one file may take in memory: 1 GiB, which is more than ten million short rows."""

_TEXTS = ("instruction", "input", "response", "answer_pattern")
_MESSAGES = "messages"
_NAMES = ("family",)
"""Columns whose values are names: numbers and true or false are taken as their text."""
_VALUE_BYTES = 64
"""What a value takes beside its characters, as a Python object in a list."""
_ROWS_AT_ONCE = 256
_GZIP = b"\x1f\x8b"

_Record: TypeAlias = dict[str, "str | None"]


def read_table(path: Path, names: Iterable[str] = (), most_bytes: int = MOST_BYTES) -> pa.Table:
    """The needed columns of a file that it has: instruction, input, response, answer_pattern, messages (as JSON), family.

    Args:
        names: More columns whose values are names, such as that of `data.partition.column`.

    Returns:
        A table of text columns in the order above, with at least one row.

    Raises:
        DataError: whatever is wrong with the file; names it, and the row or column.
    """
    _check_file(path)
    wanted = tuple(dict.fromkeys([*_TEXTS, _MESSAGES, *_NAMES, *names]))
    read = _parquet_records if path.suffix == ".parquet" else _json_records
    columns: dict[str, list[str | None]] = {}
    taken = num_rows = 0
    try:
        for record in read(path, wanted, most_bytes):
            for name, value in record.items():
                text = _as_text(value, name)
                taken += _VALUE_BYTES + len(text or "")
                columns.setdefault(name, [None] * num_rows).append(text)
            num_rows += 1
            for values in columns.values():
                values += [None] * (num_rows - len(values))
            if taken > most_bytes:
                raise _TooLarge(most_bytes)
        table = pa.table({name: pa.array(columns[name], pa.string()) for name in wanted if name in columns})
    except _BadValue as error:
        raise bad_row(path, num_rows, str(error)) from error
    except Exception as error:  # a file is anyone's, and a reader may raise anything on it
        what = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"data file {path} cannot be read{f' at row {num_rows}' if num_rows else ''}: {what}") from error
    if not num_rows:
        raise DataError(f"data file {path} has no rows")
    return table


def column_names(path: Path) -> list[str]:
    """The columns of a file that can be read, in order of name; of JSONL those of the first row."""
    if path.suffix == ".parquet":
        return sorted(pq.read_schema(path).names)
    with path.open("rb") as file:
        return sorted(next(_parsed(_decoded(line, 0), 0) for line in file if line.strip()))


def data_files(path: Path) -> Sequence[Path]:
    """The file itself, or a folder's data files in order of name.

    Raises:
        DataError: the folder has none, or a folder in it, whose files would not be read.
    """
    if not path.is_dir():
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry))
    nested = [entry for entry in entries if entry.is_dir()]
    if nested:
        raise DataError(f"data directory {path} holds the folder {nested[0].name}, whose files would not be read; move them up")
    files = [entry for entry in entries if entry.suffix in SUFFIXES]
    if not files:
        raise DataError(f"data directory {path} holds no .parquet or .jsonl file")
    return files


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is some program's own, such as .git and the checkpoints of notebooks."""
    return path.name.startswith(".")


def unread_files(path: Path) -> list[Path]:
    """Files of a folder, and of the folders in it, that `data_files` passes over because of their names; hidden ones apart."""
    if not path.is_dir() or is_hidden(path):
        return []
    found = [(entry, entry.is_dir()) for entry in sorted(path.iterdir()) if not is_hidden(entry)]
    here = [entry for entry, is_folder in found if not is_folder and entry.suffix not in SUFFIXES]
    return here + [file for entry, is_folder in found if is_folder for file in unread_files(entry)]


def bad_row(path: Path, row: int, what: str) -> DataError:
    """The error of a row that cannot be used."""
    return DataError(f"data file {path}, row {row}: {what}; correct the row or remove it")


class _BadValue(ValueError):
    """A row holds something that is refused."""


class _TooLarge(ValueError):
    def __init__(self, most_bytes: int) -> None:
        super().__init__(f"it holds more than {most_bytes / 2**20:g} MiB of rows, which is the most that is read; split it")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"data file {path} does not exist, or is no file")
    if path.suffix not in SUFFIXES:
        raise DataError(f"data file {path} is neither .parquet nor .jsonl")
    if path.stat().st_size == 0:
        raise DataError(f"data file {path} is empty")


def _as_text(value: object, column: str) -> str | None:
    if value is None:
        return value
    if isinstance(value, str):
        if not value.isascii():
            _check_unicode(value, column)
        return value
    if column == _MESSAGES and isinstance(value, list):
        return json.dumps(
            value, ensure_ascii=False, default=lambda part: [_shown(part)]
        )  # which is no text, as a content must be
    if column not in (*_TEXTS, _MESSAGES) and isinstance(value, bool | int | float):
        return json.dumps(value)
    what = "a list, or JSON text of one" if column == _MESSAGES else "text"
    raise _BadValue(f"{column} should be {what}, got {_shown(value)}")


def _check_unicode(text: str, column: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair, which is no character
        raise _BadValue(f"{column} holds {text[error.start]!a}, which is half a character") from error


def _no_text(part: object) -> list[str]:
    """What stands in JSON for a part that it cannot hold: no text, so that it is refused where text is needed."""
    return [_shown(part)]


def _shown(value: object) -> str:
    return f"{value!r:.80}"


def _json_records(path: Path, wanted: Sequence[str], most_bytes: int) -> Iterator[dict[str, object]]:
    """A record per line that is not blank. Only a line feed ends a line: text may hold any other separator."""
    if path.stat().st_size > most_bytes:
        raise _TooLarge(most_bytes)
    with path.open("rb") as file:
        start = file.read(4096)
        if start.startswith(_GZIP):
            raise ValueError("it is compressed with gzip; unpack it")
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            raise ValueError("it holds a JSON array; write one object a line")
        file.seek(0)
        for number, line in enumerate(file, start=1):
            text = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number)
            if text.strip():
                record = _parsed(text, number)
                yield {name: record[name] for name in wanted if name in record}


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _BadValue(f"line {number} is not UTF-8: {error.reason} at byte {error.start}; save the file as UTF-8") from error


def _parsed(line: str, number: int) -> Mapping[str, object]:
    try:
        record = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _BadValue(f"line {number} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise _BadValue(f"line {number} should be a JSON object, got {_shown(record)}")
    return record


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object from its pairs; a key that is given twice would lose its first value without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1)
        raise ValueError(f"the key {twice!r:.80} is given twice")
    return found


def _parquet_records(path: Path, wanted: Sequence[str], most_bytes: int) -> Iterator[dict[str, object]]:
    """A record per row. Text stays in dictionaries until its size is known: few bytes on disk can stand for very many."""
    with pq.ParquetFile(path) as plain:
        metadata, schema = plain.metadata, plain.schema_arrow
        names = [name for name in wanted if name in schema.names]
        twice = [name for name in names if schema.names.count(name) > 1]
        if twice:
            raise ValueError(f"it has two columns {twice[0]}")
        leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.partition(".")[0] in names]
        _check_size(metadata, leaves, most_bytes)
        texts = [metadata.schema.column(i).path for i in leaves if metadata.schema.column(i).physical_type == "BYTE_ARRAY"]
        if not names:
            yield from ({} for _ in range(metadata.num_rows))
            return
    taken = 0
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
            batch.validate(full=True)
            taken += sum(_expanded_bytes(column) for column in batch.columns)
            if taken > most_bytes:
                raise _TooLarge(most_bytes)
            yield from batch.to_pylist()


def _check_size(metadata: pq.FileMetaData, leaves: Sequence[int], most_bytes: int) -> None:
    """By what the file says of itself, before any of it is read."""
    chunks = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups) for leaf in leaves]
    taken = sum(chunk.total_uncompressed_size for chunk in chunks) + _VALUE_BYTES * sum(chunk.num_values for chunk in chunks)
    if max(taken, _VALUE_BYTES * metadata.num_rows) > most_bytes:
        raise _TooLarge(most_bytes)


def _expanded_bytes(column: pa.Array) -> int:
    """What a column's values take once each is an object of its own."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _VALUE_BYTES * len(column) + _expanded_bytes(column.flatten())
    if pa.types.is_struct(column.type):
        return sum(_expanded_bytes(field) for field in column.flatten())
    if not pa.types.is_dictionary(column.type):
        return _VALUE_BYTES * len(column) + column.nbytes
    lengths = np.array([len(value or "") for value in column.dictionary.to_pylist()], dtype=np.int64)
    indices = column.indices.drop_null().to_numpy(zero_copy_only=False)
    return _VALUE_BYTES * len(column) + int(lengths[indices].sum())
