"""One block of CSV -> columns, as fast as it goes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pa_csv

from nvisy_connectors.object.formats.csv_blocks import CsvBlock, Layout
from nvisy_connectors.object.formats.csv_dialect import Dialect
from nvisy_connectors.object.formats.csv_marks import bare_escapes
from nvisy_connectors.object.formats.csv_types import LEAST_LONG, convert, is_text
from nvisy_connectors.object.formats.decimals import check_decimals
from nvisy_connectors.object.formats.floats import infinite_rows
from nvisy_connectors.object.formats.line_blocks import BOM

csv: Any = cast("Any", pa_csv)
pc: Any = cast("Any", pyarrow.compute)

_ZERO, _NINE, _X = b"09x"
_LOWER = 0x20
"""The bit by which small letters differ."""
_LF, _CR = 10, 13
_LARGE = re.compile(rb"[0-9]{30}|[0-9][eE]\+?[0-9]{2}")
"""What any text of a number has that is too large for a column of floats."""
_LONG = re.compile(rb"[0-9]{16}")
"""What any has of which floats do not hold all digits."""


@dataclass(frozen=True)
class Form:
    """What every record must fit.

    Args:
        schema: The columns.
        null_values: Fields that stand for nothing.
        decimal_point: What stands before the fraction of a number.
        inferred: Whether the types come from a sample. Then a number that begins with zeros is
            none, nor is one with more digits than a float holds, as other such texts may come.
    """

    schema: pa.Schema
    null_values: Sequence[str] = ("",)
    decimal_point: str = "."
    inferred: bool = False

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Columns of numbers."""
        kinds = (pa.types.is_integer, pa.types.is_floating)
        return frozenset(f.name for f in self.schema if any(is_kind(f.type) for is_kind in kinds))

    @cached_property
    def nulls_that_are_values(self) -> Sequence[bytes]:
        """What stands for nothing in a column of which it could be a value, such as `-999`."""
        kinds = {field.type for field in self.schema if not is_text(field.type)}
        return [
            one.encode()
            for one in self.null_values
            if any(convert(pa.array([one]), kind, self.decimal_point)[1][0] for kind in kinds)
        ]


def parse(block: CsvBlock, form: Form) -> pa.RecordBatch | None:
    """Rows of a block; `None` when some record may be bad: then another look tells."""
    if block.bad or not block.data:
        return None
    if not block.count:
        return pa.RecordBatch.from_pylist([], form.schema)
    data = to_utf8(block.data, block.layout.dialect.encoding)
    if data is None or _needs_a_look(data, block, form):
        return None
    try:
        table = read(data, block.layout, form)
    except pa.ArrowInvalid:
        return None
    if table.num_rows != block.count or _may_be_too_large(table, data, form):
        return None
    return one_batch(table)


def _may_be_too_large(table: pa.Table, data: bytes, form: Form) -> bool:
    """Whether a column of floats may hold another number than was written."""
    if len(infinite_rows(table)) and _LARGE.search(data):
        return True
    return form.inferred and _holds_large(table) and _LONG.search(data) is not None


def _holds_large(table: pa.Table) -> bool:
    floats = [column for column in table.columns if pa.types.is_floating(column.type)]
    extremes = [pc.min_max(column).as_py() for column in floats]
    found = [one for found in extremes for one in found.values() if one is not None]
    return any(abs(one) >= LEAST_LONG for one in found)


def _needs_a_look(data: bytes, block: CsvBlock, form: Form) -> bool:
    """Whether Arrow may take some text for a value that it does not stand for."""
    mark = (block.layout.dialect.quote or "").encode()
    if mark and any(mark + one + mark in data for one in form.nulls_that_are_values):
        return True  # quotes are no matter there, but to Arrow they are
    return form.inferred and bool(form.numbers) and _has_zeros(data, block, form)


def to_utf8(data: bytes, encoding: str) -> bytes | None:
    """The same text in UTF-8; `None` when some of it is not what it should be."""
    if encoding != "utf-8":
        try:
            return data.decode(encoding).encode()
        except UnicodeError:
            return None
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)])
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return data


def read(
    data: bytes, layout: Layout, form: Form, handler: Callable[[Any], str] | None = None
) -> pa.Table:
    """Columns of records in UTF-8.

    Args:
        data: The records.
        layout: How they are written down.
        form: The columns to read.
        handler: Told each record with another number of fields; says `skip` or `error`.

    Raises:
        pa.ArrowInvalid: Some record does not fit.
    """
    dialect = layout.dialect
    if not data.endswith((b"\n", b"\r")):
        # Arrow takes an empty field behind a quoted one for quoted, too, where the data ends.
        data = b"".join([data, b"\n"])
    if data.startswith(BOM):
        data = BOM + data  # Arrow leaves one out, wherever in a file the data begin
    if not dialect.escape_bare and dialect.escape and dialect.escape.encode() in data:
        data = _escaped(data, dialect)
    table = csv.read_csv(
        pa.BufferReader(data),
        # One thread and one piece: blocks are parsed side by side.
        read_options=csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=list(layout.names)
        ),
        parse_options=csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            escape_char=dialect.escape or False,
            newlines_in_values=True,
            invalid_row_handler=handler,
        ),
        convert_options=csv.ConvertOptions(
            check_utf8=False,
            column_types=form.schema,
            include_columns=form.schema.names,
            null_values=list(form.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            decimal_point=form.decimal_point,
        ),
    )
    check_decimals(table)
    return table


def _escaped(data: bytes, dialect: Dialect) -> bytes:
    """The same records where escapes that are letters are doubled: Arrow knows no such letters."""
    times = np.ones(len(data), np.int64)
    times[bare_escapes(data, dialect)] = 2
    return np.repeat(np.frombuffer(data, np.uint8), times).tobytes()


def one_batch(table: pa.Table) -> pa.RecordBatch:
    """All rows as one batch."""
    if not table.num_rows:
        return pa.RecordBatch.from_pylist([], table.schema)
    return table.combine_chunks().to_batches()[0]


def fields_of(record: bytes, dialect: Dialect, count: int) -> list[str]:
    """The fields of one record, as texts.

    Raises:
        ValueError: It has not so many.
    """
    names = tuple(str(place) for place in range(count))
    form = Form(pa.schema([(name, pa.string()) for name in names]), null_values=())
    table = read(record, Layout(dialect, names), form)
    if table.num_rows != 1:
        raise ValueError(f"it is no record of {count} fields")
    return [column[0].as_py() for column in table.columns]


def _has_zeros(data: bytes, block: CsvBlock, form: Form) -> bool:
    """Whether a column of numbers may hold one that begins with zeros: Arrow drops them."""
    codes = np.frombuffer(data, np.uint8)
    zeros = np.flatnonzero(codes[:-1] == _ZERO)
    after = codes[zeros + 1]
    zeros = zeros[((after >= _ZERO) & (after <= _NINE)) | ((after | _LOWER) == _X)]
    if not len(zeros):
        return False
    dialect = block.layout.dialect
    marks = [ord(dialect.delimiter), _LF, _CR, ord(" ")]
    if dialect.quote:
        marks.append(ord(dialect.quote))
    is_mark = np.zeros(256, np.bool_)
    is_mark[marks] = True
    # A sign counts where a number may begin, and not within a date.
    first = zeros - (codes[np.maximum(zeros - 1, 0)] == ord("-"))
    zeros = zeros[(first <= 0) | is_mark[codes[np.maximum(first - 1, 0)]]]
    if not len(zeros):
        return False
    if dialect.encoding != "utf-8" or (dialect.quote and dialect.quote.encode() in data):
        return True
    delimiters = np.flatnonzero(codes == ord(dialect.delimiter))
    starts = block.starts[np.searchsorted(block.starts, zeros, "right") - 1]
    places = np.searchsorted(delimiters, zeros) - np.searchsorted(delimiters, starts)
    names = block.layout.names
    held = {names[place] for place in np.unique(places).tolist() if place < len(names)}
    return not held.isdisjoint(form.numbers)
