"""CSV with a header line, as RFC 4180 has it. Every value is text as it stands: `null`, `1` and dates too.

The standard library's strict reader refuses a quote that is never closed; others take the rest of the file for one value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from actors.data.columns import Columns
from actors.data.formats.content import content_of, decoded
from actors.data.formats.records import BadValue, Record


def csv_records(path: Path, columns: Columns, most_bytes: int) -> Iterator[Record]:
    """A record per row that is not blank; a row with more or fewer values than the header, and other separators, are refused."""
    text = decoded(content_of(path, most_bytes), 1)
    csv.field_size_limit(most_bytes)  # the default refuses a value of more than 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = (row for row in _parsed(reader) if row)
    names = next(rows, [])
    places = {ours: names.index(theirs) for ours, theirs in columns.of(names).items()}
    if not places and len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in names[0]), None)):
        raise ValueError(f"its header is separated by {mark!r}; save it with commas")
    for row in rows:
        if len(row) != len(names):
            raise BadValue(
                f"it has {len(row)} values where the header names {len(names)} columns; quote values that hold a comma"
            )
        yield {ours: row[place] for ours, place in places.items()}


def _parsed(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise BadValue(f"it is not CSV: {error}") from error
