"""One block of JSON lines -> one record batch, as fast as it goes."""

import json
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pa_json

from nvisy_connectors.object.formats.decimals import check_decimals
from nvisy_connectors.object.formats.floats import as_number, infinite_rows
from nvisy_connectors.object.formats.jsonl_check import checker
from nvisy_connectors.object.formats.jsonl_dates import as_dates, as_times
from nvisy_connectors.object.formats.jsonl_rows import SUSPECT, line_reader
from nvisy_connectors.object.formats.line_blocks import BOM, Block
from nvisy_connectors.object.formats.line_table import LineTable
from nvisy_connectors.object.read_memory import Bytes

MAX_DEPTH = 200
"""Deepest nesting that types are inferred for: Arrow's inference recurses on the C stack."""

FEW_BYTES = 512 << 10
"""Lines that types are inferred from, if they tell those of all others."""

_BLANK = b" \t\r"
_OPEN, _CLOSE = b"{}"
_NEWLINE = b"\n"[0]
_OTHER_BRACKET = 0x20
"""The bit by which `{` and `}` differ from `[` and `]`."""
_NULL_FIRST = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*null")
_MARKS = re.compile(rb"^\xef\xbb\xbf", re.MULTILINE)


def parse(block: Block, schema: pa.Schema, *, declared: bool) -> pa.RecordBatch:
    """Rows of a block.

    Args:
        block: Whole lines.
        schema: What every row must fit.
        declared: Whether fields that are not in the schema are ignored; else they are errors.

    Raises:
        pa.ArrowInvalid: Some line is no JSON object or does not fit; the message tells little.
    """
    data = block.data
    if not data or data.isspace():
        return pa.RecordBatch.from_pylist([], schema)
    _check_utf8(data)
    _check_first(data)
    unexpected = "ignore" if declared else "error"
    table = _read(data, schema, unexpected)
    return table.combine_chunks().to_batches()[0] if table.num_rows else _empty(schema)


def read_rows(data: pa.Buffer, schema: pa.Schema, *, declared: bool) -> pa.RecordBatch:
    """Rows of lines that are UTF-8 and begin and end with a brace, each.

    Raises:
        pa.ArrowInvalid: Some line is no JSON object or does not fit.
    """
    if not data.size:
        return _empty(schema)
    table = _read(data, schema, "ignore" if declared else "error")
    return table.combine_chunks().to_batches()[0] if table.num_rows else _empty(schema)


def line_numbers(block: Block, rows: int) -> npt.NDArray[np.int64] | None:
    """Number of the line of each row; `None` when the rows are not one object per line.

    Arrow takes several objects on a line, and objects that span lines, without complaint. But when
    every line that is not blank begins with a brace and ends with one, no object can span lines,
    and equal counts mean one object per line.
    """
    data = block.data
    if rows == block.lines and _is_canonical(block):
        return np.arange(block.line, block.line + rows, dtype=np.int64)
    lines = [line.strip(_BLANK) for line in data.split(b"\n")]
    numbers = [number for number, line in enumerate(lines, block.line) if line]
    fits = all(line.startswith(b"{") and line.endswith(b"}") for line in lines if line)
    return np.array(numbers, np.int64) if fits and len(numbers) == rows else None


def _is_canonical(block: Block) -> bool:
    """Whether each line begins with a brace and ends with one: nothing around them, none blank."""
    data = block.data
    codes = np.frombuffer(data, np.uint8)
    seams = block.newlines[:-1] if data.endswith(b"\n") else block.newlines
    return (
        data.startswith(b"{")
        and data.endswith((b"}\n", b"}"))
        and bool((codes[seams - 1] == _CLOSE).all() and (codes[seams + 1] == _OPEN).all())
    )


def infer(blocks: list[Block]) -> pa.Schema:
    """Schema of the first blocks of a read: JSON's own types, texts stay texts.

    Raises:
        pa.ArrowInvalid: Some line is no JSON object, or two lines contradict each other.
    """
    few = infer_few(blocks)
    if few is not None and agrees(few, blocks):
        return few
    return infer_lines([block.data for block in blocks])


def infer_few(blocks: Sequence[Block]) -> pa.Schema | None:
    """`infer` for the first lines of many; `None` if these are not many, or tell no columns.

    Raises:
        pa.ArrowInvalid: As for all of them.
    """
    data = blocks[0].data
    end = data.find(b"\n", FEW_BYTES) + 1
    schema = infer_lines([data[:end]]) if end else None
    return schema if schema and schema.names else None


def agrees(schema: pa.Schema, blocks: Sequence[Block]) -> bool:
    """Whether no line says more than a schema does: to look at lines is cheaper than to parse."""
    reader = line_reader(schema, declared=False)
    return all((reader.kinds(LineTable(block)) != SUSPECT).all() for block in blocks)


def infer_lines(lines: Sequence[Bytes]) -> pa.Schema:
    """`infer` for lines without the blocks that held them.

    Raises:
        pa.ArrowInvalid: Some line is no JSON object, or two lines contradict each other.
    """
    data = b"\n".join(lines)
    if BOM in data:
        data = _MARKS.sub(b" " * len(BOM), data)
    _check_utf8(data)
    if not data or data.isspace():
        return pa.schema([])
    _check_first(data)
    if nesting(data) > MAX_DEPTH:
        raise pa.ArrowInvalid(f"nested deeper than {MAX_DEPTH}")
    schema = _read(data, None, "infer").schema
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def nesting(data: Bytes) -> int:
    """Upper bound of how deep the values of any line are nested.

    Brackets within texts are counted too, so the exact depth is only worked out where that matters.
    """
    codes = np.frombuffer(data, np.uint8)
    ends = np.append(np.flatnonzero(codes == _NEWLINE), len(codes))
    # The two brackets, and their closing ones, differ in one bit.
    opens = np.flatnonzero((codes | _OTHER_BRACKET) == _OPEN)
    many = np.diff(np.searchsorted(opens, ends), prepend=0) > MAX_DEPTH
    lines = (data[ends[at - 1] + 1 if at else 0 : ends[at]] for at in np.flatnonzero(many))
    return max((_depth(line) for line in lines), default=0)


def _depth(line: Bytes) -> int:
    bare = re.sub(rb'"(?:[^"\\]|\\.)*+"', b"", line)
    codes = np.frombuffer(bare, np.uint8) | _OTHER_BRACKET
    steps = (codes == _OPEN).astype(np.int32) - (codes == _CLOSE)
    return int(np.cumsum(steps).max(initial=0))


def _read(data: Bytes | pa.Buffer, schema: pa.Schema | None, unexpected: str) -> pa.Table:
    times = None if schema is None else as_times(schema)
    table = pa_json.read_json(
        pa.BufferReader(data),
        # One thread and one piece: blocks are parsed side by side.
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pa_json.ParseOptions(
            explicit_schema=times, unexpected_field_behavior=unexpected
        ),
    )
    check_decimals(table)
    if schema is not None:
        _check_floats(table, data)
    return table if times is schema else as_dates(table, schema)


def _check_floats(table: pa.Table, data: Bytes | pa.Buffer) -> None:
    # What was written as infinity and what became it can only be told apart by the text.
    rows = infinite_rows(table)
    if not len(rows):
        return
    lines = [line for line in bytes(data).split(b"\n") if line.strip(_BLANK)]
    if len(lines) != table.num_rows:
        raise pa.ArrowInvalid("a line holds no single row")
    check = checker(pa.struct(list(table.schema)), declared=True)
    for row in rows:
        try:
            reason = check(json.loads(lines[row].strip(_BLANK), parse_float=as_number))
        except (ValueError, RecursionError) as error:
            raise pa.ArrowInvalid("a number is too big") from error
        if reason is not None:
            raise pa.ArrowInvalid(reason)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


def _check_utf8(data: Bytes) -> None:
    # Arrow's JSON reader copies invalid bytes into its strings; its validation is vectorised.
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)])
    text.validate(full=True)


def _check_first(data: Bytes) -> None:
    # A `null` at the beginning kills the process within Arrow; later ones become rows of their own.
    if _NULL_FIRST.match(data):
        raise pa.ArrowInvalid("a line holds null")


def _plain(kind: pa.DataType) -> pa.DataType:
    """A text that looks like a time stays a text: a later one may not look like it."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, _plain(child.type)) for child in kind])
    return kind
