"""Arrow columns in PostgreSQL's binary COPY format, a column at a time.

Each value becomes its length (4 bytes, big endian; -1 for a null) and its bytes; a row is the
number of columns and its values. Joining the columns element by element gives the rows one behind
the other: the buffer of the joined array is what is sent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.sql.postgres.json_text import flat, json_texts, regroup

pc: Any = pyarrow.compute  # its functions are made at run time

BYTES = pa.large_binary()
SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

DAY_MICROSECONDS = 86_400_000_000
EPOCH_DAYS = 10_957
"""Days from 1970, where Arrow counts from, to 2000, where PostgreSQL does."""
EPOCH_MICROSECONDS = EPOCH_DAYS * DAY_MICROSECONDS

_NULL = pa.scalar(b"\xff\xff\xff\xff", BYTES)
_NOTHING = pa.scalar(b"", BYTES)
Matrix = npt.NDArray[np.uint8]


def copy_data(columns: Sequence[pa.Array]) -> list[memoryview | bytes]:
    """What to send for encoded columns of one length, in order."""
    count = pa.scalar(len(columns).to_bytes(2, "big"), BYTES)
    rows = pc.binary_join_element_wise(count, *columns, _NOTHING)
    _, offsets, data = rows.buffers()
    if data is None:
        return [SIGNATURE, TRAILER]
    ends = np.frombuffer(offsets, np.int64)[rows.offset : rows.offset + len(rows) + 1]
    return [SIGNATURE, memoryview(data)[int(ends[0]) : int(ends[-1])], TRAILER]


def row_numbers(count: int) -> pa.Array:
    """An encoded column of type integer that counts from 0."""
    return _fixed(np.arange(count, dtype=">i4"), None)


def encode_column(column: pa.Array, kind: str) -> pa.Array:
    """The values of a column of one of the kinds of `types.py`, each with its length before it."""
    return _ENCODERS[kind](column)


def encode_array(column: pa.Array, kind: str) -> pa.Array:
    """The lists of a column, as one-dimensional arrays of a kind."""
    values, lengths = flat(column)
    bodies = pc.binary_join(regroup(encode_column(values, kind), lengths), _NOTHING)
    count = len(column)
    heads = np.zeros((count, 5), ">i4")
    sizes = lengths.to_numpy(zero_copy_only=False)
    heads[:, 0] = 1
    heads[:, 1] = int(values.null_count > 0)
    heads[:, 2] = ELEMENT_OIDS[kind]
    heads[:, 3] = sizes
    heads[:, 4] = 1
    head = _binary(heads.view(np.uint8).reshape(count, 20))
    empty = np.zeros(3, ">i4")
    empty[2] = ELEMENT_OIDS[kind]
    whole = pc.if_else(pc.equal(lengths, 0), pa.scalar(empty.tobytes(), BYTES), head)
    return _sized(_keep(pc.binary_join_element_wise(whole, bodies, _NOTHING), column))


def encode_vectors(column: pa.Array, *, as_array: bool) -> pa.Array:
    """The vectors of a `fixed_size_list<float32>` without nulls inside, as `vector` or `real[]`."""
    dimension: int = column.type.list_size
    count = len(column)
    values = column.values.slice(column.offset * dimension, count * dimension)
    numbers = np.asarray(values.fill_null(0)).reshape(count, dimension)
    if as_array:
        width = 20 + 8 * dimension
        cells = np.empty((count, 5 + 2 * dimension), ">i4")
        cells[:, :5] = [1, 0, ELEMENT_OIDS["float4"], dimension, 1]
        cells[:, 5::2] = 4
        cells[:, 6::2] = numbers.astype(">f4").view(">i4")
        body = cells.view(np.uint8).reshape(count, width)
    else:
        width = 4 + 4 * dimension
        body = np.zeros((count, width), np.uint8)
        body[:, :2] = np.frombuffer(dimension.to_bytes(2, "big"), np.uint8)
        body[:, 4:] = numbers.astype(">f4").view(np.uint8).reshape(count, 4 * dimension)
    length = np.broadcast_to(np.frombuffer(width.to_bytes(4, "big"), np.uint8), (count, 4))
    return _masked(_binary(np.concatenate([length, body], axis=1)), column)


def _numbers(column: pa.Array, kind: pa.DataType, dtype: str) -> pa.Array:
    values = column.cast(kind, safe=False).fill_null(0).to_numpy(zero_copy_only=False)
    return _fixed(values.astype(dtype), column)


def _booleans(column: pa.Array) -> pa.Array:
    return _numbers(column, pa.uint8(), "u1")


def _dates(column: pa.Array) -> pa.Array:
    days = (
        column
        .cast(pa.date32(), safe=False)
        .cast(pa.int32())
        .fill_null(0)
        .to_numpy(zero_copy_only=False)
    )
    return _fixed((days - EPOCH_DAYS).astype(">i4"), column)


def _times(column: pa.Array) -> pa.Array:
    return _numbers(column.cast(pa.time64("us"), safe=False), pa.int64(), ">i8")


def _moments(column: pa.Array) -> pa.Array:
    kind = pa.timestamp("us", column.type.tz)
    since = column.cast(kind, safe=False).cast(pa.int64()).fill_null(0)
    return _fixed((since.to_numpy(zero_copy_only=False) - EPOCH_MICROSECONDS).astype(">i8"), column)


def _intervals(column: pa.Array) -> pa.Array:
    since = column.cast(pa.duration("us"), safe=False).cast(pa.int64()).fill_null(0)
    cells = np.zeros((len(column), 16), np.uint8)
    microseconds = since.to_numpy(zero_copy_only=False).astype(">i8")
    cells[:, :8] = microseconds.view(np.uint8).reshape(-1, 8)
    return _fixed_cells(cells, column)


def _uuids(column: pa.Array) -> pa.Array:
    return _sized(_storage(column).cast(BYTES))


def _texts(column: pa.Array) -> pa.Array:
    return _sized(_storage(column).cast(pa.large_string()).cast(BYTES))


def _bytes(column: pa.Array) -> pa.Array:
    return _sized(_storage(column).cast(BYTES))


def _json(column: pa.Array) -> pa.Array:
    texts = json_texts(column).cast(BYTES)
    return _sized(pc.binary_join_element_wise(pa.scalar(b"\x01", BYTES), texts, _NOTHING))


def _written_json(column: pa.Array) -> pa.Array:
    texts = _storage(column).cast(pa.large_string()).cast(BYTES)
    return _sized(pc.binary_join_element_wise(pa.scalar(b"\x01", BYTES), texts, _NOTHING))


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _fixed(values: npt.NDArray[np.generic], column: pa.Array | None) -> pa.Array:
    return _fixed_cells(values.view(np.uint8).reshape(len(values), values.itemsize), column)


def _fixed_cells(cells: Matrix, column: pa.Array | None) -> pa.Array:
    count, width = cells.shape
    whole = np.empty((count, 4 + width), np.uint8)
    whole[:, :4] = np.frombuffer(width.to_bytes(4, "big"), np.uint8)
    whole[:, 4:] = cells
    return _masked(_binary(whole), column)


def _binary(cells: Matrix) -> pa.Array:
    """The rows of a matrix of bytes, as an array."""
    count, width = cells.shape
    offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int64) * width)
    data = pa.py_buffer(np.ascontiguousarray(cells))
    return pa.LargeBinaryArray.from_buffers(BYTES, count, [None, offsets, data])


def _masked(encoded: pa.Array, column: pa.Array | None) -> pa.Array:
    if column is None or not column.null_count:
        return encoded
    return pc.if_else(column.is_valid(), encoded, _NULL)


def _keep(values: pa.Array, column: pa.Array) -> pa.Array:
    """The values, null where the column is."""
    if not column.null_count:
        return values
    return pc.if_else(column.is_valid(), values, pa.scalar(None, BYTES))


def _sized(values: pa.Array) -> pa.Array:
    """Values with their lengths before them."""
    lengths = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    heads = _binary(lengths.astype(">i4").view(np.uint8).reshape(len(values), 4))
    whole = pc.binary_join_element_wise(heads, values.fill_null(b""), _NOTHING)
    return _masked(whole, values)


_ENCODERS: Mapping[str, Callable[[pa.Array], pa.Array]] = {
    "bool": _booleans,
    "int2": lambda column: _numbers(column, pa.int16(), ">i2"),
    "int4": lambda column: _numbers(column, pa.int32(), ">i4"),
    "int8": lambda column: _numbers(column, pa.int64(), ">i8"),
    "float4": lambda column: _numbers(column, pa.float32(), ">f4"),
    "float8": lambda column: _numbers(column, pa.float64(), ">f8"),
    "numeric": _texts,  # its digits, which the server reads again
    "text": _texts,
    "bytea": _bytes,
    "date": _dates,
    "time": _times,
    "timestamp": _moments,
    "timestamptz": _moments,
    "interval": _intervals,
    "uuid": _uuids,
    "jsonb": _json,
    "json_text": _written_json,
}

ELEMENT_OIDS: Mapping[str, int] = {
    "bool": 16,
    "int2": 21,
    "int4": 23,
    "int8": 20,
    "float4": 700,
    "float8": 701,
    "numeric": 25,
    "text": 25,
    "bytea": 17,
    "date": 1082,
    "time": 1083,
    "timestamp": 1114,
    "timestamptz": 1184,
    "interval": 1186,
    "uuid": 2950,
}
"""Numbers of the types of the elements of an array, the same in every PostgreSQL."""
