"""JSON: an object a line, or one array of objects as Alpaca's own file. What a file begins with says which, whatever its name."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from actors.data.columns import Columns
from actors.data.formats.content import content_of, decoded
from actors.data.formats.records import BadValue, Record, renamed

_SPACE = re.compile(r"[ \t\r\n]*")


def json_records(path: Path, columns: Columns, most_bytes: int) -> Iterator[Record]:
    """A record per object."""
    content = content_of(path, most_bytes)
    objects = _array(content) if content.lstrip().startswith(b"[") else _lines(content)
    for found in objects:
        try:
            chosen = columns.of(found)
        except ValueError as error:
            raise BadValue(str(error)) from error
        yield renamed(found, chosen)


def _lines(content: bytes) -> Iterator[Mapping[str, object]]:
    """An object per line that is not blank. Only a line feed ends a line: text may hold any other separator."""
    for number, line in enumerate(io.BytesIO(content), start=1):
        where = f"line {number}"
        try:
            text = decoded(line, number)
        except ValueError as error:
            raise BadValue(str(error)) from error
        if text.strip():
            try:
                found = json.loads(text, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:
                raise BadValue(f"{where} is not JSON: {error}") from error
            yield _object(found, where)


def _array(content: bytes) -> Iterator[Mapping[str, object]]:
    """An object per element, one at a time: all of them at once would take many times the memory."""
    text, decoder = decoded(content, 1), json.JSONDecoder(object_pairs_hook=_once)
    place = _after_space(text, text.index("[") + 1)
    if text[place : place + 1] == "]":
        _check_end(text, place + 1)
        return
    while True:
        try:
            found, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise BadValue(f"the array does not go on with JSON: {error}") from error
        yield _object(found, "an element of the array")
        place = _after_space(text, place)
        ends = text[place : place + 1]
        if ends == "]":
            return _check_end(text, place + 1)
        if ends != ",":
            got = f"got {text[place : place + 20]!r}" if ends else "and the file ends; it may be cut off"
            raise BadValue(f"after this object the array needs a comma or its end, {got}")
        place = _after_space(text, place + 1)


def _after_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _check_end(text: str, place: int) -> None:
    if text[_after_space(text, place) :]:
        raise BadValue(f"more follows after the end of the array: {text[place : place + 40].strip()!r}")


def _object(found: object, where: str) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise BadValue(f"{where} should be a JSON object, got {found!r:.80}")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object from its pairs; a key that is given twice would lose its first value without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1)
        raise ValueError(f"the key {twice!r:.80} is given twice")
    return found
