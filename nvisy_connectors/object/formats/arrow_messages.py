"""The messages of Arrow IPC files and streams, looked at before Arrow decodes them.

A message says how many rows it has, and each compressed buffer how large it is inside. Arrow
allocates what it is told; here it is counted first. The layout is that of the Arrow columnar format
1.5, "Serialization and Interprocess Communication", and of FlatBuffers.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from nvisy_connectors.object.formats.read_ahead import ReadAhead

MAGIC = b"ARROW1\0\0"
"""How a file begins; a stream has nothing before its first message."""
_TAIL = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
_NOTHING = b"\0\0\0\0"
"""Length of the message that ends a stream."""
_ALIGNMENT = 8
_MOST_METADATA = 64 << 20
"""Bytes of the metadata of one message: some hundred bytes per column."""

_HEADER, _BODY_LENGTH = 2, 3
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3
_HEADER_TYPE = 1


class DamagedError(ValueError):
    """A message is none."""


class _Table:
    """A table of a FlatBuffer."""

    def __init__(self, data: memoryview, place: int) -> None:
        self._data, self._place = data, place
        self._vtable = place - self._number("<i", place)
        self._fields = (self._number("<H", self._vtable) - 4) // 2

    @classmethod
    def root(cls, data: memoryview) -> "_Table":
        return cls(data, _unpacked("<I", data, 0))

    def number(self, field: int, form: str) -> int:
        """A scalar, 0 if it is not there."""
        at = self._at(field)
        return self._number(form, self._place + at) if at else 0

    def table(self, field: int) -> "_Table | None":
        """A table, or that of a union."""
        at = self._at(field)
        return self._follow(at) if at else None

    def buffers(self, field: int) -> Iterator[tuple[int, int]]:
        """Offsets and lengths of a vector of structs of two 64-bit numbers."""
        at = self._at(field)
        if not at:
            return
        start = self._place + at
        start += self._number("<I", start)
        count = self._number("<I", start)
        if count * 16 > len(self._data):
            raise DamagedError("a message has more buffers than bytes")
        for number in range(count):
            place = start + 4 + 16 * number
            yield self._number("<q", place), self._number("<q", place + 8)

    def _follow(self, at: int) -> "_Table":
        place = self._place + at
        return _Table(self._data, place + self._number("<I", place))

    def _at(self, field: int) -> int:
        return self._number("<H", self._vtable + 4 + 2 * field) if field < self._fields else 0

    def _number(self, form: str, place: int) -> int:
        return _unpacked(form, self._data, place)


def _unpacked(form: str, data: memoryview, place: int) -> int:
    if place < 0:
        raise DamagedError("a message points before its beginning")
    try:
        return int(struct.unpack_from(form, data, place)[0])
    except struct.error as error:
        raise DamagedError("a message ends too early") from error


@dataclass(frozen=True)
class Message:
    """One message, not decoded."""

    pieces: tuple[bytes | memoryview, ...]
    """All of it, one after the other, with what tells its length; nothing if it is not wanted."""
    rows: int
    """Of a record batch, or of the words of a dictionary."""
    decoded_bytes: int
    """What its buffers are inside."""
    is_rows: bool


class MessageReader:
    """The messages of a file or stream, in their order.

    Args:
        source: It, from its beginning.
        size: Its bytes.
    """

    def __init__(self, source: ReadAhead, size: int) -> None:
        self._input = _Input(source, size)
        self._is_file = False
        self._ended = False
        self._damage: DamagedError | None = None

    def read(self, unwanted_rows: int = 0) -> Message | None:
        """The next one, if there is one.

        Args:
            unwanted_rows: The body of a record batch that has no more rows is passed over.

        Raises:
            DamagedError: The file ends too early, or the message is none.
        """
        if self._damage is not None:
            raise self._damage
        if self._ended:
            return None
        start = self._input.place
        if not start and self._input.peek(len(MAGIC)) == MAGIC:
            start = len(self._input.read(len(MAGIC)))
            self._is_file = True
        head = self._input.read(4)
        if head == _CONTINUATION:
            head += self._input.read(4)
        length = _unpacked("<i", memoryview(head), len(head) - 4)
        if not length:
            self._check_end()
            return None
        if not 0 < length <= min(_MOST_METADATA, self._input.left):
            raise DamagedError(f"the message at byte {start} is none")
        metadata = self._input.read(length)
        message = _Table.root(memoryview(metadata))
        body_length = message.number(_BODY_LENGTH, "<q")
        if not 0 <= body_length <= self._input.left:
            raise DamagedError(f"the message at byte {start} ends behind the file")
        kind = message.number(_HEADER_TYPE, "<B")
        batch = _batch_of(message, kind)
        rows = 0 if batch is None else batch.number(_LENGTH, "<q")
        if rows < 0:
            raise DamagedError("a message has fewer rows than none")
        is_rows = kind == _RECORD_BATCH
        if is_rows and rows <= unwanted_rows:
            self._input.skip(body_length)
            return Message((), rows, 0, is_rows)
        body = self._input.read_large(body_length)
        decoded = body_length if batch is None else _decoded_bytes(batch, body)
        return Message((head, metadata, body), rows, decoded, is_rows)

    def at_end(self) -> bool:
        """Whether nothing follows, and the end is whole. If it is not, `read` says so."""
        head = self._input.peek(_ALIGNMENT)
        if not self._ended and (head[:4] == _NOTHING or head == _CONTINUATION + _NOTHING):
            try:
                self._ended = self.read() is None
            except DamagedError as error:
                self._damage = error
        return self._ended

    def _check_end(self) -> None:
        # What comes behind may have been cut off, and zeros are what a disk puts in its place.
        if self._is_file:
            self._input.skip(max(0, self._input.left - len(_TAIL)))
            if self._input.read(len(_TAIL)) != _TAIL:
                raise DamagedError("it ends too early")
        elif self._input.left:
            raise DamagedError(f"there is more behind its end, at byte {self._input.place}")


class _Input:
    def __init__(self, source: ReadAhead, size: int) -> None:
        self._source = source
        self._size = size
        self._ahead = memoryview(b"")
        self.place = 0

    @property
    def left(self) -> int:
        return self._size - self.place

    def peek(self, size: int) -> bytes:
        if len(self._ahead) < size:
            more = self._source.next()
            self._ahead = memoryview(b"".join([self._ahead, more])) if self._ahead else more
        return bytes(self._ahead[:size])

    def read(self, size: int) -> bytes:
        data = self.peek(size)
        while len(data) < size:
            found = len(self._ahead)
            data = self.peek(size)
            if len(self._ahead) == found:
                raise DamagedError("it ends too early")
        self._pass(size)
        return data

    def read_large(self, size: int) -> memoryview:
        """What is not held a second time while it is read."""
        # Of Arrow's pool, as what is decoded refers to it.
        data = memoryview(pa.allocate_buffer(size)).cast("B")
        done = min(size, len(self._ahead))
        data[:done] = self._ahead[:done]
        self._pass(done)
        while done < size:
            self._ahead = self._source.next()
            if not self._ahead:
                raise DamagedError("it ends too early")
            some = self._ahead[: size - done]
            data[done : done + len(some)] = some
            done += len(some)
            self._pass(len(some))
        return data

    def skip(self, size: int) -> None:
        if size > len(self._ahead):
            self._source.seek(self.place + size)
        self._pass(size)

    def _pass(self, size: int) -> None:
        self._ahead = self._ahead[size:]
        self.place += size


def _batch_of(message: _Table, kind: int) -> _Table | None:
    """The record batch in a message, that of the words of a dictionary too."""
    header = message.table(_HEADER)
    if header is None or kind not in {_DICTIONARY_BATCH, _RECORD_BATCH}:
        return None
    return header if kind == _RECORD_BATCH else header.table(1)


def _decoded_bytes(batch: _Table, body: memoryview) -> int:
    decoded = 0
    is_compressed = batch.table(_COMPRESSION) is not None
    for offset, length in batch.buffers(_BUFFERS):
        told = _unpacked("<q", body, offset) if is_compressed and length >= _ALIGNMENT else -1
        decoded += max(told, length)
    return decoded
