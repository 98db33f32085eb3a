"""The rows of a block some lines of which are bad: those are cut out, the rest is parsed again."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import (
    BadLine,
    Line,
    doubt,
    explain,
    mismatch,
)
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_sieve import json_lines, typed_lines
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import Indexes, LineTable

_ROW = re.compile(r" in row (\d+)$")
_NO_OTHERS, _LAST = 2, 3
"""Stages: none, the kinds of the fields, also that there are no others, and line by line."""
FEW = 64
"""Up to so many lines that Arrow names as bad one by one, before halving is the better search."""


@dataclass(frozen=True)
class Salvaged:
    """What a block holds."""

    rows: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    """Number of the line of each row."""
    bad: list[BadLine]
    effort: int = 0
    """What `salvage` should begin with for a block that is alike."""


def salvage(block: Block, schema: pa.Schema, *, declared: bool, effort: int = 0) -> Salvaged:
    """Every line of a block that is not blank, as a row or as a bad line.

    The stages of the search go from the cheap to the exact; the last word is always Arrow's, on
    the lines that are left. To parse in vain is what costs most, so what was needed for the block
    before is done at once.
    """
    lines = LineTable(block)
    blank, sound = lines.look()
    good = np.flatnonzero(sound)
    search = _Search(lines, np.cumsum(~blank) - 1, schema, declared=declared)
    good = json_lines(lines, good, search.is_row)
    rows: pa.RecordBatch | None = None
    for stage in range(effort, _LAST + 1):
        effort = stage
        good = search.fitting(good, stage)
        rows = search.rows(good)
        if rows is not None:
            break
    assert rows is not None  # noqa: S101 - in the last stage each line was found to fit
    guilty = ~blank
    guilty[good] = False
    bad = [search.reason(int(index)) for index in np.flatnonzero(guilty)]
    alike = any(one.tag == "validation" for one in bad)
    return Salvaged(rows, good + block.line, bad, effort if alike else 0)


class _Search:
    def __init__(
        self, lines: LineTable, ranks: Indexes, schema: pa.Schema, *, declared: bool
    ) -> None:
        self._lines = lines
        self._ranks = ranks
        self._schema = schema
        self._declared = declared
        self._reasons: dict[int, BadLine] = {}

    def is_row(self, index: int) -> bool:
        """Whether a line is a row; if not, the reason is kept."""
        return self._keep(index, doubt)

    def is_alike(self, index: int) -> bool:
        """Whether the kinds of a line's fields are those of the columns."""
        return self._keep(index, mismatch)

    def _keep(self, index: int, judge: Callable[..., BadLine | None]) -> bool:
        found = judge(self._line(index), self._schema, declared=self._declared)
        if found:
            self._reasons[index] = found
        return found is None

    def reason(self, index: int) -> BadLine:
        """Why a line is no row."""
        found = self._reasons.get(index)
        return found or explain(self._line(index), self._schema, declared=self._declared)

    def _line(self, index: int) -> Line:
        lines, block = self._lines, self._lines.block
        # Measured from the end: a byte order mark is not in the data.
        start = block.end - len(block.data) + int(lines.starts[index])
        return Line(block, int(self._ranks[index]), block.line + index, start, lines.line(index))

    def fitting(self, good: Indexes, stage: int) -> Indexes:
        """Those of some JSON objects that are rows, as far as a stage tells."""
        if stage == _LAST:
            return good[np.isin(good, self.guilty(good), invert=True)]
        if not stage:
            return good
        no_others = stage == _NO_OTHERS and not self._declared
        return typed_lines(self._lines, good, self._schema, self.is_alike, no_others=no_others)

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
