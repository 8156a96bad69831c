"""The bytes of a text file, unpacked where gzip packed them; never more than may be read."""

from __future__ import annotations

import gzip
from pathlib import Path

from actors.data.formats.records import TooLarge

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def content_of(path: Path, most_bytes: int) -> bytes:
    """All bytes of a file without its byte-order mark.

    Raises:
        TooLarge: they are more than `most_bytes`, also once they are unpacked. OSError, EOFError: it cannot be unpacked.
    """
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as unpacked:
                content = unpacked.read(most_bytes + 1)
        elif path.stat().st_size > most_bytes:
            raise TooLarge(most_bytes)
        else:
            file.seek(0)
            content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise TooLarge(most_bytes)
    return content.removeprefix(_BOM)


def decoded(content: bytes, number: int) -> str:
    """Text of UTF-8 bytes whose first line has this number; raises ValueError that names the line."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = number + content.count(b"\n", 0, error.start)
        place = error.start - (content.rfind(b"\n", 0, error.start) + 1)
        raise ValueError(f"line {line} is not UTF-8: {error.reason} at byte {place}; save the file as UTF-8") from error
