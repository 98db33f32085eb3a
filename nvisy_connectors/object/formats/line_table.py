"""The lines of a block, and the block without some of them."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.line_blocks import BOM, Block

_NEWLINE = b"\n"[0]

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
        return next(self.each(np.array([index])))

    def each(self, wanted: Indexes) -> Iterator[bytes]:
        """Some lines, without the newlines."""
        data = memoryview(self.block.data)
        ends = self.starts[wanted + 1]
        for start, end in zip(self.starts[wanted].tolist(), ends.tolist(), strict=True):
            ended = end > start and data[end - 1] == _NEWLINE
            yield bytes(data[start : end - ended])

    @contextmanager
    def only(self, wanted: Indexes) -> Generator[pa.Buffer]:
        """Some lines, in order, with blanks in the place of those between them.

        A byte order mark is blank, too: there may be some where files were put together.
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
        starts = self.starts[wanted]
        odd = starts[np.frombuffer(data, np.uint8)[starts] == BOM[0]].tolist()
        gaps += [slice(at, at + len(BOM)) for at in odd if data.startswith(BOM, at)]
        others = [data[gap] for gap in gaps]
        for gap in gaps:
            data[gap] = b" " * (gap.stop - gap.start)
        try:
            yield pa.py_buffer(data).slice(begin, end - begin)
        finally:
            for gap, other in zip(gaps, others, strict=True):
                data[gap] = other
