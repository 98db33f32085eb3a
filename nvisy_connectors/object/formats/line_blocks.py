"""Cutting the bytes of an object into blocks of whole lines."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.folder import ObjectInfo, Span

BOM = b"\xef\xbb\xbf"
_NEWLINE = b"\n"[0]
_WORD, _ONE = 8, np.uint64(1)
_PIECE = 1 << 20
"""Bytes that are compared at once: what comes of them stays in the processor's cache."""


@dataclass(frozen=True)
class Block:
    """Whole lines of one object."""

    info: ObjectInfo
    start: int
    """Byte at which the first line begins."""
    end: int
    """Byte after the last line."""
    line: int
    """Number of the first line, from 1."""
    data: bytearray
    too_long: bool = False
    """Whether it is one line that was too long to be put together; `data` is empty then."""

    @cached_property
    def newlines(self) -> npt.NDArray[np.int64]:
        """Where the newlines are in the data."""
        codes = np.frombuffer(self.data, np.uint8)
        places = [
            _few_places(codes[start : start + _PIECE] == _NEWLINE) + start
            for start in range(0, len(codes), _PIECE)
        ]
        return np.concatenate(places) if places else np.zeros(0, np.int64)

    @property
    def lines(self) -> int:
        """How many lines there are, blank ones too."""
        return 1 if self.too_long else len(self.newlines) + (not self.data.endswith(b"\n"))

    @property
    def is_last(self) -> bool:
        """Whether the object ends here."""
        return self.end >= self.info.size


class LongLineError(ValueError):
    """A line is longer than what is read at once."""

    def __init__(self, info: ObjectInfo, line: int, limit: int) -> None:
        super().__init__(f"line {line} is longer than {limit} bytes")
        self.info = info
        self.line = line


class LineCutter:
    """Cuts consecutive spans after their last newline; the rest begins the next block.

    Args:
        first_line: Number of the line that the first span begins with.
        max_line_bytes: Longest line that is put together.
        skip_long: Whether a longer line becomes a block without data; else it is an error.
    """

    def __init__(self, first_line: int, max_line_bytes: int, *, skip_long: bool = False) -> None:
        self._line = first_line
        self._limit = max_line_bytes
        self._skip_long = skip_long
        self._skipping = False
        """Whether a line is being left out."""
        self._skipped = 0
        """How much of it there was so far."""
        self._info: ObjectInfo | None = None
        self._start = 0
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, span: Span, data: bytes) -> list[Block]:
        """Take the next span; no blocks when it ends no line.

        Raises:
            LongLineError: A line exceeds the limit, and such lines are not left out.
        """
        if self._info is not span.info:
            if self._info is not None:
                self._line = 1
            self._info, self._start = span.info, span.start
        blocks: list[Block] = []
        if self._is_too_long(data):
            if not self._skip_long:
                raise LongLineError(span.info, self._line, self._limit)
            self._skipping, self._skipped = True, self._rest_bytes
            self._rest, self._rest_bytes = [], 0
        if self._skipping:
            end = data.find(b"\n") + 1 or len(data)
            self._skipped += end
            if not data.endswith(b"\n", 0, end) and not span.is_last:
                return []
            blocks.append(self._left_out())
            data = data[end:]
            if not data:
                return blocks
        block = self._cut(span, data)
        return blocks if block is None else [*blocks, block]

    def _is_too_long(self, data: bytes) -> bool:
        newline = data.find(b"\n")
        length = self._rest_bytes + (len(data) if newline < 0 else newline)
        return not self._skipping and length > self._limit

    def _left_out(self) -> Block:
        assert self._info is not None  # noqa: S101 - `feed` has set it
        end = self._start + self._skipped
        block = Block(self._info, self._start, end, self._line, bytearray(), too_long=True)
        self._start, self._skipping = end, False
        self._line += 1
        return block

    def _cut(self, span: Span, data: bytes) -> Block | None:
        cut = len(data) if span.is_last else data.rfind(b"\n") + 1
        if not cut:
            self._rest.append(data)
            self._rest_bytes += len(data)
            return None
        # A view, so that what is joined is copied once.
        whole = data if cut == len(data) else memoryview(data)[:cut]
        block = self._block(bytearray().join([*self._rest, whole]))
        self._rest = [data[cut:]] if cut < len(data) else []
        self._rest_bytes = len(data) - cut
        return block

    def _block(self, data: bytearray) -> Block:
        assert self._info is not None  # noqa: S101 - `feed` has set it
        end = self._start + len(data)
        if self._start == 0 and data.startswith(BOM):
            del data[: len(BOM)]
        block = Block(self._info, self._start, end, self._line, data)
        self._start = end
        self._line += block.lines
        return block


def _few_places(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """`np.flatnonzero`, faster where few are true: eight at a time are looked at."""
    whole = len(mask) & -_WORD
    words = mask[:whole].view("<u8")
    hits = np.flatnonzero(words != 0)
    left = words[hits]
    rest = np.flatnonzero(mask[whole:])
    found = [rest + whole]
    while len(left):
        more = left - _ONE
        # Eight bits are below the lowest that is set for each that is not true.
        found.append((hits << 3) + (np.bitwise_count(~left & more) >> 3))
        left &= more
        several = np.flatnonzero(left)
        hits, left = hits[several], left[several]
    # Sorted runs: a stable sort merges them.
    return np.sort(np.concatenate(found), kind="stable")
