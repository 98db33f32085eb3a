"""The rows of a block some lines of which are bad: those are cut out, the rest is parsed again."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import BadLine, Form, Line, explain, mismatch
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_rescued import with_texts
from nvisy_connectors.object.formats.jsonl_rows import BLANK, ROW, SUSPECT, line_reader
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


def salvage(block: Block, schema: pa.Schema, *, declared: bool, rescues: bool = False) -> Salvaged:
    """Every line of a block that is not blank, as a row or as a bad line.

    The last word on what a scan suspects and a judgement does not refuse is Arrow's.

    Args:
        block: Whole lines.
        schema: What every row must fit.
        declared: Whether fields that are not in the schema are ignored; else they are errors.
        rescues: Whether the rows have a column for what fits none of the others. Lines that the
            scan suspects are bad all the same.
    """
    lines = LineTable(block)
    reader = line_reader(schema, declared=declared)
    made = None
    if reader.makes_rows:
        kinds, made = reader.read(lines, rescues=rescues)
    else:
        kinds = reader.kinds(lines)
    search = _Search(lines, np.cumsum(kinds != BLANK) - 1, Form(schema, declared=declared))
    sure = np.flatnonzero(kinds == ROW)
    good = search.without_guilty(search.not_refused(np.flatnonzero(kinds == SUSPECT)))
    if made is None:
        good = np.sort(np.concatenate([sure, good]))
        rows = search.rows(good)
        if rows is None:
            good = search.without_guilty(good)
            rows = search.rows(good)
    else:
        rows = search.rows(good)
    assert rows is not None  # noqa: S101 - each line was found to fit
    if rescues:
        rows = with_texts(rows)
    if made is not None:
        rows, good = merged((made, sure), (rows, good))
    guilty = kinds != BLANK
    guilty[good] = False
    return Salvaged(rows, good + block.line, search.reasons(np.flatnonzero(guilty)))


def merged(*found: tuple[pa.RecordBatch, Indexes]) -> tuple[pa.RecordBatch, Indexes]:
    """Rows and the lines that they are of, put together in the order of the lines."""
    held = [(rows, lines) for rows, lines in found if len(lines)]
    if len(held) < 2:  # noqa: PLR2004 - there is nothing to put together
        return held[0] if held else found[0]
    places = np.concatenate([lines for _, lines in held])
    order = np.argsort(places)
    rows = pa.concat_batches([rows for rows, _ in held])
    return rows.take(pa.array(order)), places[order]


class _Search:
    def __init__(self, lines: LineTable, ranks: Indexes, form: Form) -> None:
        self._lines = lines
        self._ranks = ranks
        self._form = form
        self._reasons: dict[int, BadLine] = {}

    def not_refused(self, suspects: Indexes) -> Indexes:
        """Those of some lines that are rows as far as a look at them tells; why not is kept."""
        told = [mismatch(line, self._form) for line in self._told_apart(suspects)]
        self._reasons |= {
            index: bad for index, bad in zip(suspects.tolist(), told, strict=True) if bad
        }
        return suspects[[bad is None for bad in told]]

    def reasons(self, guilty: Indexes) -> list[BadLine]:
        """Why some lines are no rows."""
        unexplained = np.array([index not in self._reasons for index in guilty.tolist()], bool)
        rest = guilty[unexplained]
        for index, line in zip(rest.tolist(), self._told_apart(rest), strict=True):
            self._reasons[index] = explain(line, self._form)
        return [self._reasons[index] for index in guilty.tolist()]

    def _told_apart(self, wanted: Indexes) -> Iterator[Line]:
        lines, block = self._lines, self._lines.block
        # Measured from the end: a byte order mark is not in the data.
        before = block.end - len(block.data)
        ranks, starts = self._ranks[wanted].tolist(), lines.starts[wanted].tolist()
        for index, rank, start, data in zip(
            wanted.tolist(), ranks, starts, lines.each(wanted), strict=True
        ):
            yield Line(block, rank, block.line + index, start + before, data)

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

    def without_guilty(self, wanted: Indexes) -> Indexes:
        """Those of some lines that are rows."""
        return wanted[np.isin(wanted, self._guilty(wanted), invert=True)]

    def _guilty(self, wanted: Indexes) -> Indexes:
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
