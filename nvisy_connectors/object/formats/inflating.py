"""Spans of compressed objects -> spans of what they hold."""

import sys
from collections.abc import Generator

from nvisy_connectors.object.folder import ObjectInfo, Span, Torn
from nvisy_connectors.object.formats.compression import (
    COMPRESSIBLE,
    BrokenStreamError,
    Codec,
    StreamDecoder,
    codec_of,
)
from nvisy_connectors.object.formats.fetched import Fetched
from nvisy_connectors.object.params import ReadParams

MAX_RATIO = 100
"""An object may hold so many times its size, unless the params say otherwise,"""
FREE_BYTES = 64 << 20
"""and always so many bytes."""

BROKEN = "write the object again, or leave it out with `glob`"
RAISE = "if it is no bomb, raise `{}`"


class DecodedInfo(ObjectInfo):
    """A compressed object as what it holds; its size is told with its last span.

    Where the object breaks off, one byte more than could be decoded: it stands for the place.
    """

    __slots__ = ()

    def __init__(self, info: ObjectInfo) -> None:
        super().__init__(info.key, sys.maxsize, info.version, info.modified)

    def settle(self, size: int) -> None:
        """Tell the size, before the last span is handed on."""
        object.__setattr__(self, "size", size)


class Inflater:
    """Decodes objects one after the other, in groups of a batch; blocks, for threads.

    Memory is that of a group, whatever an object holds.

    Args:
        params: What the source was told.
        whole: Whether an object is to be one span.
    """

    def __init__(self, params: ReadParams, *, whole: bool = False) -> None:
        self._params = params
        self._whole = whole
        self._resumed: tuple[ObjectInfo, int] | None = None
        self._stream: _Stream | None = None
        self._spans: list[Span] = []
        self._data: list[bytes] = []
        self._bytes = 0

    def codec(self, info: ObjectInfo) -> Codec | None:
        """How an object is compressed."""
        if self._params.format not in COMPRESSIBLE:
            return None
        return codec_of(info.key, self._params.compression)

    def resume(self, info: ObjectInfo, start: int) -> None:
        """Begin later in an object, and in this one alone: so many bytes of what it holds."""
        self._resumed = (info, start)

    def is_done_with(self, info: ObjectInfo) -> bool:
        """Whether the rest of an object is not wanted, as nothing can be made of it."""
        return self._stream is not None and self._stream.raw is info and self._stream.ended

    def passes(self, group: Fetched) -> bool:
        """Whether there is nothing to do for a group."""
        return not self._spans and all(self.codec(span.info) is None for span in group.spans)

    def inflate(self, group: Fetched) -> Generator[Fetched]:
        """Groups of what some spans hold; some may be kept for the next."""
        for span, data in zip(group.spans, group.data, strict=True):
            for one, content in self._contents(span, bytes(data)):
                if self._spans and not self._fits(len(content)):
                    yield self.rest()
                self._spans.append(one)
                self._data.append(content)
                self._bytes += len(content)
        if self._bytes >= self._params.batch_bytes:
            yield self.rest()

    def rest(self) -> Fetched:
        """What was kept."""
        found = Fetched(self._spans, self._data)
        self._spans, self._data, self._bytes = [], [], 0
        return found

    @property
    def keeps_some(self) -> bool:
        """Whether something was kept."""
        return bool(self._spans)

    def _fits(self, size: int) -> bool:
        too_many = len(self._spans) >= self._params.batch_rows
        return not too_many and self._bytes + size <= self._params.batch_bytes

    def _contents(self, span: Span, data: bytes) -> Generator[tuple[Span, bytes]]:
        codec = self.codec(span.info)
        if codec is None or (span.info.size and not span.size):  # it is not wanted
            yield span, data
            return
        if self._stream is None or self._stream.raw is not span.info:
            start, limit = self._start(span.info), self._limit(span.info)
            self._stream = _Stream(span.info, codec, start, *limit)
        if not self._stream.ended:
            step = None if self._whole else self._params.batch_bytes
            yield from self._stream.take(data, step, last=span.is_last)

    def _start(self, info: ObjectInfo) -> int:
        return self._resumed[1] if self._resumed and self._resumed[0] is info else 0

    def _limit(self, info: ObjectInfo) -> tuple[int, str]:
        """The limit, and the param that raises it."""
        limit = self._params.max_decoded_bytes or max(FREE_BYTES, MAX_RATIO * info.size)
        if self._whole and self._params.most_object_bytes < limit:
            return self._params.most_object_bytes, "max_object_bytes"
        return limit, "max_decoded_bytes"


class _Stream:
    """The object that is being decoded."""

    def __init__(self, raw: ObjectInfo, codec: Codec, start: int, limit: int, param: str) -> None:
        self.raw = raw
        self.ended = False
        self._info = DecodedInfo(raw)
        self._codec = codec
        self._decoder = StreamDecoder(codec)
        self._limit = limit
        self._param = param
        self._unwanted = start
        """Bytes that were read before."""
        self._start = start
        """Byte at which the next span begins."""
        self._decoded = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def take(self, data: bytes, step: int | None, *, last: bool) -> Generator[tuple[Span, bytes]]:
        try:
            for piece in self._decoder.feed(data):
                self._keep(piece)
                while step is not None and self._kept_bytes > step:
                    yield self._cut(step)
            if last:
                self._decoder.finish()
        except BrokenStreamError as error:
            what = f"cannot be decoded after byte {self._decoded} of what it holds: {error}"
            reason = f"the rest of the {self._codec} data {what}"
            yield self._end(Torn(reason, "format", BROKEN))
        except _TooMuchError:
            what = f"the {self._codec} data holds more than {self._limit} bytes"
            reason = f"{what}, and the rest is not read"
            yield self._end(Torn(reason, "too_large", RAISE.format(self._param)))
        else:
            if last and (self._kept or step is None):
                yield self._end(None)
            elif last:
                self._info.settle(self._decoded)  # there is no more of it

    def _keep(self, piece: bytes) -> None:
        room = self._limit - self._decoded
        self._decoded += min(len(piece), room)
        wanted = piece[min(self._unwanted, room) : room]
        self._unwanted -= min(self._unwanted, len(piece))
        if wanted:
            self._kept.append(wanted)
            self._kept_bytes += len(wanted)
        if len(piece) > room:
            raise _TooMuchError

    def _cut(self, size: int) -> tuple[Span, bytes]:
        data = b"".join(self._kept)
        self._kept, self._kept_bytes = [data[size:]], len(data) - size
        span = Span(self._info, self._start, self._start + size)
        self._start += size
        return span, data[:size]

    def _end(self, torn: Torn | None) -> tuple[Span, bytes]:
        self.ended = True
        data = b"".join(self._kept)
        self._kept, self._kept_bytes = [], 0
        self._info.settle(self._decoded + (torn is not None))
        return Span(self._info, self._start, self._info.size, torn), data


class _TooMuchError(ValueError):
    """An object holds more than it may."""
