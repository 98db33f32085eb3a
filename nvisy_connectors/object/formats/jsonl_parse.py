"""One block of JSON lines -> one record batch, as fast as it goes."""

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pa_json

from nvisy_connectors.object.formats.line_blocks import Block

CHUNK_BYTES = 2 << 20
"""What one of Arrow's threads parses at a time; smaller chunks cost more than they gain."""

MAX_DEPTH = 200
"""Deepest nesting that types are inferred for: Arrow's inference recurses on the C stack."""

_BLANK = b" \t\r"
_NEWLINE, _OPEN, _CLOSE = b"\n{}"
_NULL_FIRST = re.compile(rb"[ \t\r\n]*null")
# Two patterns, because one that begins with a literal byte is searched at the speed of `memchr`.
_NULL_LINES = (re.compile(rb"\n[ \t\r]*null"), re.compile(rb"\r[ \t\r]*null"))


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
    _check_no_null_line(data)
    unexpected = "ignore" if declared else "error"
    try:
        table = _read(data, schema, unexpected, min(len(data) + 1, CHUNK_BYTES))
    except pa.ArrowInvalid:
        if len(data) < CHUNK_BYTES:
            raise
        # A line longer than a chunk is refused too; read as one chunk only true faults are.
        table = _read(data, schema, unexpected, len(data) + 1)
    return table.combine_chunks().to_batches()[0] if table.num_rows else _empty(schema)


def line_numbers(block: Block, rows: int) -> npt.NDArray[np.int64] | None:
    """Number of the line of each row; `None` when the rows are not one object per line.

    Arrow takes several objects on a line, and objects that span lines, without complaint. But when
    every line that is not blank begins with a brace and ends with one, no object can span lines,
    and equal counts mean one object per line.
    """
    data = block.data
    if rows == block.lines and _is_canonical(data):
        return np.arange(block.line, block.line + rows, dtype=np.int64)
    lines = [line.strip(_BLANK) for line in data.split(b"\n")]
    numbers = [number for number, line in enumerate(lines, block.line) if line]
    fits = all(line.startswith(b"{") and line.endswith(b"}") for line in lines if line)
    return np.array(numbers, np.int64) if fits and len(numbers) == rows else None


def _is_canonical(data: bytes) -> bool:
    """Whether each line begins with a brace and ends with one: nothing around them, none blank."""
    codes = np.frombuffer(data, np.uint8)
    seams = np.flatnonzero(codes == _NEWLINE)
    if data.endswith(b"\n"):
        seams = seams[:-1]
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
    data = b"\n".join(block.data for block in blocks)
    _check_utf8(data)
    if not data or data.isspace():
        return pa.schema([])
    _check_no_null_line(data)
    if nesting(data) > MAX_DEPTH:
        raise pa.ArrowInvalid(f"nested deeper than {MAX_DEPTH}")
    schema = _read(data, None, "infer", len(data) + 1).schema
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def nesting(data: bytes) -> int:
    """Upper bound of how deep the values of any line are nested.

    Brackets within texts are counted too, so the exact depth is only worked out where that matters.
    """
    worst = 0
    for line in data.split(b"\n"):
        if line.count(b"{") + line.count(b"[") > MAX_DEPTH:
            bare = re.sub(rb'"(?:[^"\\]|\\.)*+"', b"", line)
            codes = np.frombuffer(bare, np.uint8)
            opens = np.isin(codes, (0x7B, 0x5B)).astype(np.int32)
            closes = np.isin(codes, (0x7D, 0x5D)).astype(np.int32)
            worst = max(worst, int(np.cumsum(opens - closes).max(initial=0)))
    return worst


def _read(data: bytes, schema: pa.Schema | None, unexpected: str, chunk: int) -> pa.Table:
    return pa_json.read_json(
        pa.BufferReader(data),
        read_options=pa_json.ReadOptions(use_threads=chunk < len(data), block_size=chunk),
        parse_options=pa_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior=unexpected
        ),
    )


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


def _check_utf8(data: bytes) -> None:
    # Arrow's JSON reader copies invalid bytes into its strings; its validation is vectorised.
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    text = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(data)])
    text.validate(full=True)


def _check_no_null_line(data: bytes) -> None:
    # A `null` at the beginning of a chunk kills the process within Arrow.
    if _NULL_FIRST.match(data) or any(pattern.search(data) for pattern in _NULL_LINES):
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
