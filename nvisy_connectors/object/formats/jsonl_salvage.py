"""The rows of a block some lines of which are bad: those are cut out, the rest is parsed again."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import (
    BadLine,
    Form,
    Line,
    doubt,
    explain,
    mismatch,
)
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_shape import Shapes
from nvisy_connectors.object.formats.jsonl_sieve import json_lines, typed_lines
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import Indexes, LineTable

_ROW = re.compile(r" in row (\d+)$")
_SHAPE, _SYNTAX, _KINDS, _NO_OTHERS, _LAST = range(5)
"""Stages: the looks of a line, whether it is JSON, the kinds of its fields, also that there are no
others, and line by line."""
_TRUST = 16
"""Blocks for which a stage is tried at once after it was of use."""
FEW = 64
"""Up to so many lines that Arrow names as bad one by one, before halving is the better search."""


@dataclass(frozen=True)
class Salvaged:
    """What a block holds."""

    rows: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    """Number of the line of each row."""
    bad: list[BadLine]


@dataclass
class Experience:
    """What helped to find the bad lines of a read so far; threads may share it."""

    expects_bad: bool = False
    """Whether the block before had bad lines: then the next one is not tried as a whole."""
    shapes: Shapes = field(default_factory=Shapes)
    _trust: dict[int, int] = field(default_factory=lambda: {_SHAPE: _TRUST})

    def trusts(self, stage: int) -> bool:
        """Whether a stage is worth its while before the lines are parsed."""
        return self._trust.get(stage, 0) > 0

    def tried(self, stage: int, *, of_use: bool) -> None:
        """Remember whether a stage found bad lines."""
        if stage not in {_SHAPE, _LAST}:
            self._trust[stage] = _TRUST if of_use else self._trust.get(stage, 0) - 1


def salvage(block: Block, schema: pa.Schema, past: Experience, *, declared: bool) -> Salvaged:
    """Every line of a block that is not blank, as a row or as a bad line.

    The stages of the search go from the cheap to the exact; the last word is always Arrow's, on
    the lines that are left. To parse in vain is what costs most, so what was of use for the blocks
    before is done at once.
    """
    lines = LineTable(block)
    blank, sound = lines.look()
    search = _Search(lines, np.cumsum(~blank) - 1, schema, past, declared=declared)
    good = np.flatnonzero(sound)
    rest = [stage for stage in range(_LAST + 1) if not past.trusts(stage)]
    for stage in range(_LAST):
        if stage not in rest:
            good = search.fitting(good, stage)
    rows = search.rows(good)
    for stage in rest:
        if rows is not None:
            break
        left = search.fitting(good, stage)
        if len(left) < len(good) or stage == _LAST:
            good, rows = left, search.rows(left)
    assert rows is not None  # noqa: S101 - in the last stage each line was found to fit
    guilty = ~blank
    guilty[good] = False
    bad = [search.reason(int(index)) for index in np.flatnonzero(guilty)]
    past.expects_bad = bool(bad)
    return Salvaged(rows, good + block.line, bad)


class _Search:
    def __init__(
        self,
        lines: LineTable,
        ranks: Indexes,
        schema: pa.Schema,
        past: Experience,
        *,
        declared: bool,
    ) -> None:
        self._lines = lines
        self._ranks = ranks
        self._form = Form(schema, declared=declared)
        self._past = past
        self._reasons: dict[int, BadLine] = {}
        self._is_json = False

    def is_row(self, index: int) -> bool:
        """Whether a line is a row; if not, the reason is kept."""
        return self._keep(index, doubt)

    def is_alike(self, index: int) -> bool:
        """Whether the kinds of a line's fields are those of the columns."""
        return self._keep(index, mismatch)

    def _keep(self, index: int, judge: Callable[..., BadLine | None]) -> bool:
        found = judge(self._line(index), self._form)
        if found:
            self._reasons[index] = found
        return found is None

    def reason(self, index: int) -> BadLine:
        """Why a line is no row."""
        found = self._reasons.get(index)
        return found or explain(self._line(index), self._form)

    def _line(self, index: int) -> Line:
        lines, block = self._lines, self._lines.block
        # Measured from the end: a byte order mark is not in the data.
        start = block.end - len(block.data) + int(lines.starts[index])
        return Line(block, int(self._ranks[index]), block.line + index, start, lines.line(index))

    def fitting(self, good: Indexes, stage: int) -> Indexes:
        """Those of some lines that are rows, as far as a stage tells."""
        left = self._fitting(good, stage)
        self._past.tried(stage, of_use=len(left) < len(good))
        return left

    def _fitting(self, good: Indexes, stage: int) -> Indexes:
        if stage == _SHAPE:
            return self._past.shapes.alike(self._lines, good, self.is_alike)
        if stage == _LAST:
            return good[np.isin(good, self.guilty(good), invert=True)]
        if not self._is_json:
            good = json_lines(self._lines, good, self.is_row)
            self._is_json = True
        if stage == _SYNTAX:
            return good
        no_others = stage == _NO_OTHERS and not self._form.declared
        return typed_lines(self._lines, good, self._form.schema, self.is_alike, no_others=no_others)

    def rows(self, wanted: Indexes) -> pa.RecordBatch | None:
        """The rows of some lines that are braced; `None` when not each of them is one."""
        try:
            rows = self._read(wanted)
        except pa.ArrowInvalid:
            return None
        return rows if rows.num_rows == len(wanted) else None

    def _read(self, wanted: Indexes) -> pa.RecordBatch:
        form = self._form
        with self._lines.only(wanted) as data:
            return read_rows(data, form.schema, declared=form.declared)

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
