"""The lines of a block that are surely rows of a schema, as columns: `jsonl_rows.c` in one pass.

The library is compiled when the package is built (`hatch_build.py`). Where it could not be, and for
types that it does not make, Arrow's reader and the judgement in Python do it all: the outcome is
the same, only slower.
"""

import ctypes
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_library import library
from nvisy_connectors.object.formats.jsonl_rescued import RESCUED_FIELD
from nvisy_connectors.object.formats.line_blocks import BOM
from nvisy_connectors.object.formats.line_table import LineTable

SUSPECT, ROW, BLANK = range(3)
_NONE, _ANY, _BOOLEAN, _INTEGER, _FLOAT, _DECIMAL, _TEXT, _TIMESTAMP, _LIST, _STRUCT = range(10)

MAX_BYTES = (1 << 31) - 1
"""Of a block: places in a column are counted by 32 bits."""

KEPT_BYTES = 64 << 20
"""Of the texts of a block, at most, whose memory is used again."""

Kinds = npt.NDArray[np.uint8]

_OFFSET = 4

_MOST_DIGITS = {16: 4, 32: 38, 64: 308}
"""Digits before the point of which a float of so many bits surely holds each number."""
_PLACES = {"s": 0, "ms": 3, "us": 6, "ns": 9}


class _Node(ctypes.Structure):
    """A type and what is within it, as `jsonl_lexing.h` has it."""

    _fields_: ClassVar = [
        ("kind", ctypes.c_uint8),
        ("width", ctypes.c_uint8),
        ("places", ctypes.c_uint16),
        ("digits", ctypes.c_int32),
        ("most", ctypes.c_uint64),
        ("least", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("name_size", ctypes.c_int32),
        ("children", ctypes.c_int32),
        ("first", ctypes.c_int32),
    ]


class _Column(ctypes.Structure):
    """Values of a type, as `jsonl_columns.h` has them."""

    _fields_: ClassVar = [
        ("length", ctypes.c_int64),
        ("nulls", ctypes.c_int64),
        ("room", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("size_room", ctypes.c_int64),
        ("valid", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    ]


class _Scratch:
    """Columns that are filled, copied and filled again.

    What is copied is of exactly its size, and in Arrow's pool: memory that each block would fetch
    and return elsewhere is not at hand when it is needed, and yet never given back.
    """

    def __init__(self, count: int) -> None:
        self.columns = (_Column * count)()

    def clear(self) -> None:
        """Leave no values, but their memory."""
        for column in self.columns:
            column.length = column.nulls = column.size = 0

    @property
    def is_large(self) -> bool:
        """Whether its memory is more than other blocks will need."""
        return sum(column.size_room for column in self.columns) > KEPT_BYTES

    def __del__(self) -> None:
        compiled = library()
        if compiled is not None:
            compiled.nvisy_release(self.columns, ctypes.c_int64(len(self.columns)))


def _copied(address: int | None, size: int) -> pa.Buffer:
    if not address or not size:
        return pa.py_buffer(b"")
    buffer = pa.allocate_buffer(size)
    ctypes.memmove(buffer.address, address, size)
    return buffer


class LineReader:
    """Reads the lines that are surely rows of a schema; threads may share it.

    Args:
        schema: The columns.
        declared: Whether fields that are not in the schema are ignored; else they are suspicious.
    """

    def __init__(self, schema: pa.Schema, *, declared: bool) -> None:
        nodes = _nodes(schema)
        self._nodes = (_Node * len(nodes))(*nodes)
        self._schema = schema
        self._open = declared
        self._scratch: list[_Scratch] = []
        self.makes_rows = is_compiled() and bool(schema.names) and all(map(_is_made, schema.types))
        """Whether rows are made, and not only told."""

    def kinds(self, lines: LineTable) -> Kinds:
        """What each line is: `ROW`, `BLANK`, or `SUSPECT`, which may still be a row."""
        if not is_compiled():
            blank = [
                not lines.line(index).removeprefix(BOM).strip(b" \t\r")
                for index in range(lines.count)
            ]
            return np.where(blank, BLANK, SUSPECT).astype(np.uint8)
        return self._read(lines, None)

    def read(self, lines: LineTable, *, rescues: bool = False) -> tuple[Kinds, pa.RecordBatch]:
        """What each line is, and those that are rows, in order; for a reader that makes rows.

        Args:
            lines: To be read.
            rescues: Whether fields and values that surely fit no column make no line suspicious:
                the rows have them in one more column, as `jsonl_rescued` has it.

        Raises:
            MemoryError: There was not enough for the columns.
        """
        scratch = self._scratch.pop() if self._scratch else _Scratch(len(self._nodes) + 1)
        scratch.clear()
        columns = scratch.columns
        kinds = self._read(lines, columns, rescues=rescues)
        children = self._children(0, list(self._schema), columns)
        schema = self._schema
        if rescues:
            schema = schema.append(RESCUED_FIELD)
            children.append(_texts(columns[-1]))
        rows = pa.RecordBatch.from_arrays(children, schema=schema)
        if not scratch.is_large:
            self._scratch.append(scratch)
        return kinds, rows

    def let_go(self) -> None:
        """Give back the memory that is kept for further blocks."""
        self._scratch.clear()

    def _read(
        self, lines: LineTable, columns: "ctypes.Array[_Column] | None", *, rescues: bool = False
    ) -> Kinds:
        codes = np.frombuffer(lines.block.data, np.uint8)
        assert len(codes) <= MAX_BYTES  # noqa: S101 - blocks and lines are smaller
        # CPython promises a zero after the last byte of a `bytearray`.
        return self._read_at(codes.ctypes.data, lines.starts, columns, rescues=rescues)

    def _read_at(
        self,
        address: int,
        starts: npt.NDArray[np.int64],
        columns: "ctypes.Array[_Column] | None",
        *,
        rescues: bool = False,
    ) -> Kinds:
        compiled = library()
        assert compiled is not None  # noqa: S101 - it was asked for before
        rescued = ctypes.byref(columns[-1]) if columns is not None and rescues else None
        kinds = np.empty(len(starts) - 1, np.uint8)
        if len(kinds) and compiled.nvisy_read_lines(
            ctypes.c_void_p(address),
            ctypes.c_void_p(starts.ctypes.data),
            ctypes.c_int64(len(kinds)),
            self._nodes,
            ctypes.c_int32(self._open),
            ctypes.c_void_p(kinds.ctypes.data),
            columns,
            rescued,
        ):
            raise MemoryError
        return kinds

    def _children(
        self, index: int, inner: Sequence[pa.Field], columns: "ctypes.Array[_Column]"
    ) -> list[pa.Array]:
        first = self._nodes[index].first
        return [
            self._array(first + place, field.type, columns) for place, field in enumerate(inner)
        ]

    def _array(self, index: int, kind: pa.DataType, columns: "ctypes.Array[_Column]") -> pa.Array:
        column = columns[index]
        length = column.length
        if pa.types.is_null(kind):
            return pa.nulls(length)
        buffers = [_copied(column.valid, _bytes_of_bits(length)) if column.nulls else None]
        children: list[pa.Array] = []
        if pa.types.is_struct(kind):
            children = self._children(index, list(kind), columns)
        elif pa.types.is_list(kind) or pa.types.is_string(kind):
            # Of no values there may be no memory, but there is an offset.
            size = _OFFSET * (length + 1)
            buffers.append(_copied(column.offsets, size) if length else pa.py_buffer(bytes(4)))
            if pa.types.is_string(kind):
                buffers.append(_copied(column.values, column.size))
            else:
                children = self._children(index, [kind.value_field], columns)
        else:
            width = self._nodes[index].width
            buffers.append(_copied(column.values, width * length or _bytes_of_bits(length)))
        return pa.Array.from_buffers(kind, length, buffers, column.nulls, children=children)


def _texts(column: _Column) -> pa.Array:
    length = column.length
    offsets = _copied(column.offsets, _OFFSET * (length + 1)) if length else None
    valid = _copied(column.valid, _bytes_of_bits(length))
    texts = _copied(column.values, column.size)
    buffers = [valid, offsets or pa.py_buffer(bytes(_OFFSET)), texts]
    return pa.Array.from_buffers(RESCUED_FIELD.type, length, buffers, column.nulls)


@lru_cache(maxsize=64)
def line_reader(schema: pa.Schema, *, declared: bool) -> LineReader:
    """The reader of a schema."""
    return LineReader(schema, declared=declared)


def is_compiled() -> bool:
    """Whether lines are read by the compiled library."""
    return library() is not None


def _bytes_of_bits(count: int) -> int:
    return (count + 7) // 8


def _is_made(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_is_made(field.type) for field in kind)
    if types.is_list(kind):
        return _is_made(kind.value_type)
    plain = (types.is_integer, types.is_float32, types.is_float64, types.is_boolean,
             types.is_string, types.is_null, types.is_timestamp, types.is_date32,
             types.is_decimal128)  # fmt: skip
    return any(test(kind) for test in plain)


def _nodes(schema: pa.Schema) -> list[_Node]:
    """The types of a schema, those within a type next to each other; the row itself is first."""
    nodes = [_Node(kind=_STRUCT)]
    waiting: list[tuple[_Node, Sequence[pa.Field]]] = [(nodes[0], list(schema))]
    while waiting:
        node, inner = waiting.pop()
        node.first, node.children = len(nodes), len(inner)
        made = [_node(field) for field in inner]
        nodes += made
        waiting += zip(made, map(_within, inner), strict=True)
    return nodes


def _within(field: pa.Field) -> Sequence[pa.Field]:
    if pa.types.is_struct(field.type):
        return list(field.type)
    return [field.type.value_field] if pa.types.is_list(field.type) else []


def _node(field: pa.Field) -> _Node:
    # As JSON has it: then no escape can run on over the quote after it.
    name = json.dumps(field.name, ensure_ascii=False)[1:-1].encode()
    return _Node(name=name, name_size=len(name), **_traits(field.type))


def _traits(kind: pa.DataType) -> dict[str, Any]:
    types = pa.types
    if types.is_integer(kind):
        return {"kind": _INTEGER, "width": kind.bit_width // 8} | _range(kind)
    if types.is_floating(kind):
        width = kind.bit_width // 8
        return {"kind": _FLOAT, "width": width, "digits": _MOST_DIGITS[kind.bit_width]}
    if types.is_decimal(kind):
        return {
            "kind": _DECIMAL,
            "width": kind.bit_width // 8,
            "places": kind.scale,
            "digits": kind.precision - kind.scale,
        }
    if types.is_date32(kind):
        return {"kind": _TIMESTAMP, "width": 4}
    if types.is_timestamp(kind):
        return {"kind": _TIMESTAMP, "width": 8, "places": _PLACES[kind.unit]}
    tests = {
        _BOOLEAN: types.is_boolean,
        _TEXT: types.is_string,
        _LIST: types.is_list,
        _STRUCT: types.is_struct,
    }
    return {"kind": next((code for code, test in tests.items() if test(kind)), _NONE)}


def _range(kind: pa.DataType) -> dict[str, int]:
    if pa.types.is_unsigned_integer(kind):
        return {"most": (1 << kind.bit_width) - 1}
    half = 1 << (kind.bit_width - 1)
    return {"most": half - 1, "least": half}
