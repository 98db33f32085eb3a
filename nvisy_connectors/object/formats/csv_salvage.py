"""The rows of a block some records of which are bad: those are found, the rest are rows."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.object.formats.csv_blocks import CsvBlock
from nvisy_connectors.object.formats.csv_parse import Form, one_batch, read, to_utf8
from nvisy_connectors.object.formats.csv_scan import TOO_LONG, Indexes
from nvisy_connectors.object.formats.csv_types import LEADING_ZERO, LONG, convert, is_text

pc: Any = cast("Any", pyarrow.compute)

_SHOWN = 60
"""Characters of a bad value that are told."""


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot become a row."""

    index: int
    """Its index in the block, blank lines too."""
    reason: str
    tag: str = "validation"


@dataclass(frozen=True)
class Salvaged:
    """What a block holds."""

    rows: pa.RecordBatch
    indexes: Indexes
    """The record that each row is."""
    bad: list[BadRecord]
    """In order."""
    unusual: bool = False
    """Whether there was something that the quick way cannot do."""


def texts(form: Form) -> Form:
    """All columns as texts."""
    return replace(form, schema=pa.schema([(name, pa.string()) for name in form.schema.names]))


def salvage(block: CsvBlock, form: Form) -> Salvaged:
    """Every record of a block, as a row or as a bad record."""
    search = _Search(block, form)
    good = search.readable()
    good, found = search.fields(good)
    columns: list[pa.Array] = []
    sound = np.ones(len(good), np.bool_)
    unusual = False
    for place, wanted in enumerate(form.schema):
        values = found.column(place)
        column, fits = _typed(values, wanted, form)
        unusual = unusual or column.null_count > values.null_count
        for at in np.flatnonzero(sound & ~fits).tolist():
            search.blame(int(good[at]), _mismatch(wanted, values[at].as_py(), form))
        sound &= fits
        columns.append(column)
    rows = pa.RecordBatch.from_arrays(columns, schema=form.schema)
    if not sound.all():
        rows = rows.filter(pa.array(sound))
    bad = [search.bad[index] for index in sorted(search.bad)]
    return Salvaged(rows, good[sound], bad, unusual or bool(bad))


def _typed(values: pa.Array, wanted: pa.Field, form: Form) -> tuple[pa.Array, Any]:
    if is_text(wanted.type):
        return convert(values, wanted.type)
    # Quotes are no matter where nothing but a null can be meant.
    nothing = pc.is_in(values, pa.array(form.null_values, pa.string()))
    if pc.any(nothing).as_py():
        values = pc.if_else(nothing, pa.scalar(None, pa.string()), values)
    column, good = convert(values, wanted.type, form.decimal_point)
    if form.inferred and wanted.name in form.numbers:
        good &= ~_matches(values, LEADING_ZERO)
        if pa.types.is_floating(wanted.type):
            good &= ~_matches(values, LONG)
    return column, good


def _matches(values: pa.Array, pattern: str) -> Any:  # noqa: ANN401 - a mask
    return np.asarray(pc.fill_null(pc.match_substring_regex(values, pattern), False))  # noqa: FBT003


def _mismatch(wanted: pa.Field, value: str, form: Form) -> str:
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    told = "is none"
    if form.inferred and wanted.name in form.numbers:
        if re.match(LEADING_ZERO, value):
            told = "begins with a zero"
        elif pa.types.is_floating(wanted.type) and re.match(LONG, value):
            told = "has more digits than it holds"
    return f"column {wanted.name!r} is {wanted.type}, and {shown!r} {told}"


class _Search:
    def __init__(self, block: CsvBlock, form: Form) -> None:
        self._block = block
        self._texts = texts(form)
        self.bad: dict[int, BadRecord] = {}

    def blame(self, index: int, reason: str, tag: str = "validation") -> None:
        """Say why a record is bad."""
        self.bad[index] = BadRecord(index, reason, tag)

    def readable(self) -> Indexes:
        """The records that are ones, in the encoding of the file."""
        block = self._block
        for index, reason in block.bad.items():
            self.blame(index, reason, "too_large" if reason == TOO_LONG else "format")
        good = block.filled[~np.isin(block.filled, list(block.bad))]
        encoding = block.layout.dialect.encoding
        if not block.data or to_utf8(block.data, encoding) is not None:
            return good
        for index in good.tolist():
            try:
                block.record(index).decode(encoding)
            except UnicodeDecodeError as error:
                where = f"{error.reason} at byte {error.start} of the record"
                self.blame(index, f"it is not {encoding}: {where}", "encoding")
        return good[~np.isin(good, list(self.bad))]

    def fields(self, good: Indexes) -> tuple[Indexes, pa.RecordBatch]:
        """The fields of those of some records that have as many as there are columns."""
        if not len(good):
            return good, pa.RecordBatch.from_pylist([], self._texts.schema)
        ragged: list[Any] = []

        def told(row: Any) -> str:  # noqa: ANN401 - of Arrow
            ragged.append((row.number, row.actual_columns))
            return "skip"

        try:
            table = read(self._data(good), self._block.layout, self._texts, told)
        except pa.ArrowInvalid:
            table = None
        if table is not None and table.num_rows + len(ragged) == len(good):
            wanted = len(self._block.layout.names)
            rows = [number - 1 for number, _ in ragged]
            for row, (_, count) in zip(rows, ragged, strict=True):
                self.blame(int(good[row]), f"it has {count} fields, not {wanted}", "format")
            return np.delete(good, rows), one_batch(table)
        if len(good) == 1:
            self.blame(int(good[0]), "it is no single record", "format")
            return good[:0], pa.RecordBatch.from_pylist([], self._texts.schema)
        half = len(good) // 2
        (first, left), (second, right) = self.fields(good[:half]), self.fields(good[half:])
        return np.concatenate([first, second]), pa.concat_batches([left, right])

    def _data(self, wanted: Indexes) -> bytes:
        """Some records, in order."""
        block = self._block
        if len(wanted) == len(block.filled):
            data = block.data
        else:
            seams = np.flatnonzero(np.diff(wanted) > 1)
            begins = block.starts[wanted[np.concatenate([[0], seams + 1])]].tolist()
            ends = block.ends[wanted[np.concatenate([seams, [len(wanted) - 1]])]].tolist()
            data = b"".join(block.data[b:e] for b, e in _spans(begins, ends))
        found = to_utf8(data, block.layout.dialect.encoding)
        assert found is not None  # noqa: S101 - `readable` has looked
        return found


def _spans(begins: list[int], ends: list[int]) -> Iterable[tuple[int, int]]:
    return zip(begins, ends, strict=True)
