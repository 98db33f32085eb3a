"""Cutting the bytes of an object into blocks of whole lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nvisy_connectors.object.folder import ObjectInfo, Span, Torn
from nvisy_connectors.object.formats.jsonl_library import newlines
from nvisy_connectors.object.read_memory import Bytes, ReadMemory

BOM = b"\xef\xbb\xbf"


@dataclass
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
    torn: Torn | None = None
    """Why the object breaks off here, in what counts as one line; `data` is empty then."""

    @cached_property
    def newlines(self) -> npt.NDArray[np.int64]:
        """Where the newlines are in the data."""
        return newlines(self.data)

    @cached_property
    def lines(self) -> int:
        """How many lines there are, blank ones too."""
        if self.too_long or self.torn is not None:
            return 1
        return len(self.newlines) + (not self.data.endswith(b"\n"))

    @property
    def is_last(self) -> bool:
        """Whether the object ends here."""
        return self.end >= self.info.size

    def let_go(self, memory: ReadMemory) -> None:
        """Give back the memory of the data, which is empty from now on."""
        data, self.data = self.data, bytearray()
        memory.give_back(data)


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
        memory: Where the data of blocks is put together, and that of spans is given back to.
    """

    def __init__(
        self,
        first_line: int,
        max_line_bytes: int,
        *,
        skip_long: bool = False,
        memory: ReadMemory | None = None,
    ) -> None:
        self._memory = memory or ReadMemory()
        self._line = first_line
        self._limit = max_line_bytes
        self._skip_long = skip_long
        self._skipping = False
        """Whether a line is being left out."""
        self._skipped = 0
        """How much of it there was so far."""
        self._info: ObjectInfo | None = None
        self._start = 0
        self._rest: list[Bytes] = []
        self._rest_bytes = 0

    def feed(self, span: Span, data: Bytes) -> list[Block]:
        """Take the next span, whose data is the cutter's; no blocks when it ends no line.

        Where an object is torn, what is left of its last line is a block without data.

        Raises:
            LongLineError: A line exceeds the limit, and such lines are not left out.
        """
        if span.torn is None:
            return self._feed(span, data, last=span.is_last)
        blocks = self._feed(span, data, last=False)
        self._rest, self._rest_bytes, self._skipping = [], 0, False
        torn = Block(span.info, self._start, span.end, self._line, bytearray(), torn=span.torn)
        return [*blocks, torn]

    def _feed(self, span: Span, data: Bytes, *, last: bool) -> list[Block]:
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
            if not data.endswith(b"\n", 0, end) and not last:
                return []
            blocks.append(self._left_out())
            data = data[end:]
            if not data:
                return blocks
        block = self._cut(data, last=last)
        return blocks if block is None else [*blocks, block]

    def _is_too_long(self, data: Bytes) -> bool:
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

    def _cut(self, data: Bytes, *, last: bool) -> Block | None:
        cut = len(data) if last else data.rfind(b"\n") + 1
        if not cut:
            self._rest.append(data)
            self._rest_bytes += len(data)
            return None
        begun, self._rest = self._rest, [data[cut:]] if cut < len(data) else []
        whole = self._joined(begun, self._rest_bytes, data, cut)
        self._rest_bytes = len(data) - cut
        for piece in (*begun, data):
            self._memory.give_back(piece)
        return self._block(whole)

    def _joined(self, begun: Sequence[Bytes], size: int, data: Bytes, cut: int) -> bytearray:
        """The beginning of a line, and the data up to a cut."""
        made, place = self._memory.take(size + cut), 0
        with memoryview(made) as view, memoryview(data) as rest:
            for piece in begun:
                view[place : place + len(piece)] = piece
                place += len(piece)
            view[place:] = rest[:cut]
        return made

    def _block(self, data: bytearray) -> Block:
        assert self._info is not None  # noqa: S101 - `feed` has set it
        end = self._start + len(data)
        if self._start == 0 and data.startswith(BOM):
            del data[: len(BOM)]
        block = Block(self._info, self._start, end, self._line, data)
        self._start = end
        self._line += block.lines
        return block
