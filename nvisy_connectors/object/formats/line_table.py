"""The lines of a block as arrays: which of them look sound, and the block without the others."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.line_blocks import Block

_BLANK = b" \t\r"
_OPEN, _CLOSE, _RETURN, _NEWLINE = b"{}\r\n"
_ASCII = 0x80

Mask = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LineTable:
    """All lines of a block, those that are blank too; an index is that of a line in the block."""

    block: Block

    @cached_property
    def starts(self) -> Indexes:
        """Where each line begins in the block's data, and after the last one where that ends."""
        seams = self.block.newlines + 1
        data = self.block.data
        whole = not data or data.endswith(b"\n")
        return np.concatenate([[0], seams] if whole else [[0], seams, [len(data)]]).astype(np.int64)

    @property
    def count(self) -> int:
        """How many lines there are."""
        return len(self.starts) - 1

    def line(self, index: int) -> bytes:
        """One line, without the newline."""
        start, end = self.starts[index : index + 2].tolist()
        data = self.block.data
        if end > start and data[end - 1] == _NEWLINE:
            end -= 1
        return bytes(memoryview(data)[start:end])

    def texts(self, wanted: Indexes) -> pa.Array:
        """Some lines with their newlines, which must be UTF-8, and null for the others."""
        mask = np.zeros(self.count, np.bool_)
        mask[wanted] = True
        shown = pa.py_buffer(np.packbits(mask, bitorder="little"))
        buffers = [shown, pa.py_buffer(self.starts), pa.py_buffer(self.block.data)]
        return pa.Array.from_buffers(pa.large_string(), self.count, buffers)

    @contextmanager
    def only(self, wanted: Indexes) -> Generator[pa.Buffer]:
        """Some lines, in order, with blanks in the place of those between them.

        They are not copied: the block itself has the blanks until the context ends.
        """
        if not len(wanted):
            yield pa.py_buffer(b"")
            return
        data = self.block.data
        begin, end = int(self.starts[wanted[0]]), int(self.starts[wanted[-1] + 1])
        seams = np.flatnonzero(np.diff(wanted) > 1)
        lefts, rights = self.starts[wanted[seams] + 1], self.starts[wanted[seams + 1]]
        gaps = list(map(slice, lefts.tolist(), rights.tolist()))
        others = [data[gap] for gap in gaps]
        for gap in gaps:
            data[gap] = b" " * (gap.stop - gap.start)
        try:
            yield pa.py_buffer(data).slice(begin, end - begin)
        finally:
            for gap, other in zip(gaps, others, strict=True):
                data[gap] = other

    def look(self) -> tuple[Mask, Mask]:
        """Which lines are blank; and which begin with a brace, end with one and are UTF-8.

        Only such lines can be rows: one line then never runs on into the next.
        """
        codes = np.frombuffer(self.block.data, np.uint8)
        first, last = self.starts[:-1], self._ends() - 1
        filled = last >= first
        sound = np.zeros(self.count, np.bool_)
        sound[filled] = (codes[first[filled]] == _OPEN) & (codes[last[filled]] == _CLOSE)
        blank = ~filled
        for index in np.flatnonzero(filled & ~sound):
            bare = self.line(int(index)).strip(_BLANK)
            blank[index] = not bare
            sound[index] = bare.startswith(b"{") and bare.endswith(b"}")
        self._refuse_other_encodings(codes, sound)
        return blank, sound

    def _ends(self) -> Indexes:
        """Where each line ends, before its newline and the carriage return before that."""
        codes = np.frombuffer(self.block.data, np.uint8)
        ends = self.starts[1:].copy()
        for mark in (_NEWLINE, _RETURN):
            longer = ends > self.starts[:-1]
            ends[longer] -= codes[ends[longer] - 1] == mark
        return ends

    def _refuse_other_encodings(self, codes: npt.NDArray[np.uint8], sound: Mask) -> None:
        if not self.count:
            return
        offsets = pa.py_buffer(np.array([0, len(codes)], np.int64))
        whole = pa.Array.from_buffers(
            pa.large_string(), 1, [None, offsets, pa.py_buffer(self.block.data)]
        )
        try:
            whole.validate(full=True)
        except pa.ArrowInvalid:
            foreign = np.bitwise_or.reduceat(codes, self.starts[:-1]) >= _ASCII
            for index in np.flatnonzero(foreign & sound):
                try:
                    self.line(int(index)).decode()
                except UnicodeDecodeError:
                    sound[index] = False
