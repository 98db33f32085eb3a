"""The rows of a block some lines of which are bad: those are cut out, the rest is parsed again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import BadLine, Line, explain
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_sieve import json_lines, typed_lines
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import Indexes, LineTable

_ROW = re.compile(r" in row (\d+)$")
FEW = 64
"""Up to so many lines that Arrow names as bad one by one, before halving is the better search."""


@dataclass(frozen=True)
class Salvaged:
    """What a block holds."""

    rows: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    """Number of the line of each row."""
    bad: list[BadLine]


def salvage(block: Block, schema: pa.Schema, *, declared: bool) -> Salvaged:
    """Every line of a block that is not blank, as a row or as a bad line.

    The stages of the search go from the cheap to the exact; the last word is always Arrow's, on
    the lines that are left.
    """
    lines = LineTable(block)
    blank, sound = lines.look()
    good = np.flatnonzero(sound)
    search = _Search(lines, schema, declared=declared)
    # Cheaper than to parse in vain, half of the block on average.
    good = good[json_lines(lines, good)]
    rows = search.rows(good)
    if rows is None:
        good = good[typed_lines(lines, good, schema, declared=declared)]
        rows = search.rows(good)
    if rows is None:
        good = good[np.isin(good, search.guilty(good), invert=True)]
        rows = search.rows(good)
        assert rows is not None  # noqa: S101 - each line was found to fit
    filled = np.flatnonzero(~blank)
    guilty = np.setdiff1d(filled, good, assume_unique=True)
    ranks = np.searchsorted(filled, guilty)
    bad = [
        explain(_line(lines, int(index), int(rank)), schema, declared=declared)
        for index, rank in zip(guilty, ranks, strict=True)
    ]
    return Salvaged(rows, good + block.line, bad)


def _line(lines: LineTable, index: int, rank: int) -> Line:
    block = lines.block
    start = block.end - len(block.data) + int(lines.starts[index])  # a byte order mark is before it
    return Line(block, rank, block.line + index, start, lines.line(index))


class _Search:
    def __init__(self, lines: LineTable, schema: pa.Schema, *, declared: bool) -> None:
        self._lines = lines
        self._schema = schema
        self._declared = declared

    def rows(self, wanted: Indexes) -> pa.RecordBatch | None:
        """The rows of some lines that are braced; `None` when not each of them is one."""
        try:
            rows = self._read(wanted)
        except pa.ArrowInvalid:
            return None
        return rows if rows.num_rows == len(wanted) else None

    def _read(self, wanted: Indexes) -> pa.RecordBatch:
        return read_rows(self._lines.data(wanted), self._schema, declared=self._declared)

    def guilty(self, wanted: Indexes) -> Indexes:
        """Those of some lines that are no row."""
        found: list[int] = []
        rest = wanted
        while len(found) < FEW and len(rest):
            try:
                rows = self._read(rest)
            except pa.ArrowInvalid as error:
                named = _ROW.search(str(error))
                row = int(named[1]) if named else len(rest)
                # Arrow counts values, not lines: what it names is only a guess.
                if row >= len(rest) or self.rows(rest[row : row + 1]) is not None:
                    break
                found.append(int(rest[row]))
                rest = rest[row + 1 :]
            else:
                if rows.num_rows == len(rest):
                    rest = rest[:0]
                break
        # Lines before a named one were read, but their values not all converted.
        passed = wanted[np.isin(wanted, [*found, *rest], invert=True)]
        return np.array([*found, *self._halve(passed), *self._halve(rest)], np.int64)

    def _halve(self, wanted: Indexes) -> Iterator[int]:
        if not len(wanted) or self.rows(wanted) is not None:
            return
        if len(wanted) == 1:
            yield int(wanted[0])
            return
        half = len(wanted) // 2
        yield from self._halve(wanted[:half])
        yield from self._halve(wanted[half:])
