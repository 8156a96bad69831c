"""How many bytes a packed Arrow batch unpacks to, before it is unpacked: pyarrow would only say so afterwards.

Each packed buffer begins with the number of bytes that it unpacks to. Where the buffers lie is in the batch's flatbuffer
(https://github.com/apache/arrow/blob/main/format/Message.fbs); the numbers of fields below are those of that file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow as pa

_HEADER, _HEADER_TYPE = 2, 1  # of Message
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # types of header
_DATA = 1  # of DictionaryBatch
_BUFFERS, _COMPRESSION = 2, 3  # of RecordBatch
_LENGTH = struct.Struct("<q")


def unpacked_bytes(message: pa.ipc.Message) -> int:
    """The bytes that the buffers of a message unpack to; 0 where none is packed.

    Raises:
        struct.error: the message's offsets lead out of it.
    """
    root = _Table(memoryview(message.metadata), 0).table()
    kind = root.byte(_HEADER_TYPE)
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return 0
    batch = root.field(_HEADER)
    if kind == _DICTIONARY_BATCH and batch is not None:
        batch = batch.field(_DATA)
    if batch is None or batch.field(_COMPRESSION) is None or message.body is None:
        return 0
    body = memoryview(message.body)
    return sum(max(0, _LENGTH.unpack_from(body, offset)[0]) for offset, length in batch.pairs(_BUFFERS) if length)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a flatbuffer."""

    content: memoryview
    place: int

    def table(self) -> _Table:
        """What the offset at this place leads to."""
        return _Table(self.content, self.place + struct.unpack_from("<I", self.content, self.place)[0])

    def byte(self, number: int) -> int:
        """A field of one byte; 0 where it is not there."""
        found = self._find(number)
        return self.content[found] if found is not None else 0

    def field(self, number: int) -> _Table | None:
        """A field that is a table; None where it is not there."""
        found = self._find(number)
        return None if found is None else _Table(self.content, found).table()

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """A field that is a vector of pairs of 64-bit numbers."""
        vector = self.field(number)
        if vector is None:
            return []
        count = struct.unpack_from("<I", self.content, vector.place)[0]
        whole = self.content[vector.place + 4 : vector.place + 4 + 16 * count]
        return list(struct.iter_unpack("<qq", whole))

    def _find(self, number: int) -> int | None:
        fields = self.place - struct.unpack_from("<i", self.content, self.place)[0]
        size, entry = struct.unpack_from("<H", self.content, fields)[0], 4 + 2 * number
        offset = struct.unpack_from("<H", self.content, fields + entry)[0] if entry < size else 0
        return self.place + offset if offset else None
