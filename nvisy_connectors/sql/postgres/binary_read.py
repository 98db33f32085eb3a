"""PostgreSQL's binary COPY format as Arrow columns, a column at a time.

A row is the number of its columns (2 bytes) and its values, each its length (4 bytes, big endian;
-1 for a null) and its bytes. Where the rows begin is known, since the server sends one message for
each; so where a column begins follows from where the one before it ends, for all rows at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.sql.postgres.binary_copy import (
    DAY_MICROSECONDS,
    EPOCH_DAYS,
    EPOCH_MICROSECONDS,
)
from nvisy_connectors.sql.postgres.reading import ReadColumn

pc: Any = pyarrow.compute  # its functions are made at run time

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_MOST_DATE = 2**31 - 1 - EPOCH_DAYS
_MOST_MOMENT = 2**63 - 1 - EPOCH_MICROSECONDS
_ARRAY_HEAD = 20
_NO_TEXT = "holds text that is not valid UTF-8"


@dataclass(frozen=True)
class Cells:
    """The values of one column: where they are in the data."""

    data: bytes | bytearray
    starts: Numbers
    lengths: Numbers
    """-1 for a null."""

    @property
    def nulls(self) -> Mask:
        """Where there is none."""
        return self.lengths < 0

    def integers(self, dtype: str) -> npt.NDArray[Any]:
        """Numbers at the beginning of each value; anything where it is null."""
        return gather(self.data, np.where(self.nulls, 0, self.starts), dtype)

    def skip(self, count: int) -> "Cells":
        """The same without their first bytes."""
        return Cells(self.data, self.starts + count, np.where(self.nulls, -1, self.lengths - count))


@dataclass(frozen=True)
class Decoded:
    """A column, and which of its values could not be held."""

    values: pa.Array
    bad: Mask | None = None
    reason: str = ""


def gather(data: bytes | bytearray, starts: Numbers, dtype: str) -> npt.NDArray[Any]:
    """Numbers that begin at these bytes."""
    width = np.dtype(dtype).itemsize
    if len(data) < width:
        return np.zeros(len(starts), dtype)
    every = np.ndarray((len(data) - width + 1,), dtype, data, strides=(1,))
    # A value of no bytes may be the last thing there is.
    return every[np.minimum(starts, len(every) - 1)]


def cells(data: bytes | bytearray, sizes: Sequence[int], count: int) -> list[Cells]:
    """Where the values of `count` columns are.

    Args:
        data: Rows, one behind the other.
        sizes: Bytes of each row.
        count: Columns of each row.
    """
    ends = np.cumsum(np.asarray(sizes, np.int64))
    at = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) + 2
    found: list[Cells] = []
    for _ in range(count):
        lengths = gather(data, at, ">i4").astype(np.int64)
        starts = at + 4
        found.append(Cells(data, starts, lengths))
        at = starts + np.maximum(lengths, 0)
    if not np.array_equal(at, ends):
        raise ValueError("the rows of the server have another shape than was asked for")
    return found


def decode(column: ReadColumn, found: Cells) -> Decoded:
    """The values of a column."""
    if column.array:
        return _arrays(column, found)
    return _DECODERS[column.decoder](found, column.type)


def _masked(numbers: npt.NDArray[Any], found: Cells, kind: pa.DataType) -> pa.Array:
    native = numbers.astype(numbers.dtype.newbyteorder("="))
    return pa.array(native, mask=found.nulls).cast(kind, safe=False)


def _numbers(dtype: str) -> Callable[[Cells, pa.DataType], Decoded]:
    return lambda found, kind: Decoded(_masked(found.integers(dtype), found, kind))


def _booleans(found: Cells, _kind: pa.DataType) -> Decoded:
    return Decoded(pa.array(found.integers("u1") != 0, mask=found.nulls))


def _dates(found: Cells, kind: pa.DataType) -> Decoded:
    days = found.integers(">i4").astype(np.int64)
    bad = ~found.nulls & ((days > _MOST_DATE) | (days == -(2**31)))
    days = np.where(bad, 0, days + EPOCH_DAYS).astype(np.int32)
    values = pa.array(days, mask=found.nulls | bad).cast(kind)
    return Decoded(values, bad, "holds an infinite date, or one that is too far away")


def _moments(found: Cells, kind: pa.DataType) -> Decoded:
    since = found.integers(">i8").astype(np.int64)
    bad = ~found.nulls & ((since > _MOST_MOMENT) | (since == -(2**63)))
    since = np.where(bad | found.nulls, 0, since) + EPOCH_MICROSECONDS
    values = pa.array(since, mask=found.nulls | bad).cast(kind)
    return Decoded(values, bad, "holds an infinite time, or one that is too far away")


def _times(found: Cells, kind: pa.DataType) -> Decoded:
    since = found.integers(">i8").astype(np.int64)
    # PostgreSQL has 24:00, Arrow has not.
    bad = ~found.nulls & (since >= DAY_MICROSECONDS)
    values = pa.array(np.where(bad, 0, since), mask=found.nulls | bad).cast(kind)
    return Decoded(values, bad, "holds the time 24:00")


def _binary(found: Cells) -> pa.Array:
    """The bytes of each value: gaps and values in turn are one array, of which every second is."""
    count = len(found.starts)
    sizes = np.maximum(found.lengths, 0)
    offsets = np.empty(2 * count + 1, np.int64)
    offsets[0] = 0
    offsets[1::2] = found.starts
    offsets[2::2] = found.starts + sizes
    every = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), 2 * count, [None, pa.py_buffer(offsets), pa.py_buffer(found.data)]
    )
    places = pa.array(np.arange(1, 2 * count, 2), mask=found.nulls)
    return every.take(places)


def _bytes(found: Cells, kind: pa.DataType) -> Decoded:
    return Decoded(_binary(found).cast(kind))


def _texts(found: Cells, kind: pa.DataType) -> Decoded:
    values = _binary(found)
    try:
        return Decoded(values.cast(kind))
    except pa.ArrowInvalid:
        # Only a database of no encoding holds such.
        bad = np.array([not _is_text(value) for value in values.to_pylist()])
        kept = pc.if_else(pa.array(bad), pa.scalar(None, values.type), values)
        return Decoded(kept.cast(kind), bad, _NO_TEXT)


def _is_text(value: bytes | None) -> bool:
    try:
        return value is None or bool(value.decode()) or True
    except UnicodeDecodeError:
        return False


def _decimals(found: Cells, kind: pa.DataType) -> Decoded:
    texts = _texts(found, pa.string()).values
    if pa.types.is_string(kind):
        return Decoded(texts)
    bad = pc.equal(texts, "NaN").fill_null(False)  # noqa: FBT003 - Arrow's
    mask = bad.to_numpy(zero_copy_only=False)
    if mask.any():
        texts = pc.if_else(bad, pa.scalar(None, texts.type), texts)
    return Decoded(texts.cast(kind), mask, "holds NaN, which is no decimal number")


def _uuids(found: Cells, kind: pa.DataType) -> Decoded:
    storage = _binary(found).cast(pa.binary(16))
    return Decoded(pa.ExtensionArray.from_storage(kind, storage))


def _jsonb(found: Cells, kind: pa.DataType) -> Decoded:
    return _texts(found.skip(1), kind)  # the version of the format, 1


_DECODERS: Mapping[str, Callable[[Cells, Any], Decoded]] = {
    "bool": _booleans,
    "int2": _numbers(">i2"),
    "int4": _numbers(">i4"),
    "int8": _numbers(">i8"),
    "oid": _numbers(">u4"),
    "float4": _numbers(">f4"),
    "float8": _numbers(">f8"),
    "decimal": _decimals,
    "text": _texts,
    "jsonb": _jsonb,
    "bytea": _bytes,
    "uuid": _uuids,
    "date": _dates,
    "time": _times,
    "timestamp": _moments,
    "timestamptz": _moments,
}


def _arrays(column: ReadColumn, found: Cells) -> Decoded:
    """One-dimensional arrays; of several dimensions they are bad, of none empty."""
    dimensions = np.where(found.nulls, 0, found.integers(">i4")).astype(np.int64)
    bad = dimensions > 1
    reason = "holds an array of several dimensions"
    sizes = np.where(dimensions == 1, found.skip(12).integers(">i4"), 0).astype(np.int64)
    if column.dimension is not None:
        sized = sizes == column.dimension
        bad |= ~found.nulls & ~sized
        sizes = np.full(len(sizes), column.dimension)
        usable = sized & (dimensions == 1)
    else:
        usable = ~bad
    elements = _elements(found, sizes, usable)
    inner = _DECODERS[column.decoder](elements, column.type)
    if inner.bad is not None and inner.bad.any():
        owners = np.repeat(np.arange(len(sizes)), sizes)
        bad[owners[inner.bad]] = True
        reason = inner.reason
    invalid = pa.array(found.nulls | bad)
    if column.dimension is not None:
        lists = pa.FixedSizeListArray.from_arrays(inner.values, column.dimension, mask=invalid)
        return Decoded(lists, bad, reason)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), inner.values, mask=invalid)
    return Decoded(lists, bad, reason)


def _elements(found: Cells, sizes: Numbers, usable: Mask) -> Cells:
    """The elements of all arrays; nulls for those of an array that cannot be used."""
    total = int(sizes.sum())
    starts, lengths = np.zeros(total, np.int64), np.full(total, -1, np.int64)
    firsts = np.cumsum(sizes) - sizes
    rows = np.flatnonzero(usable & (sizes > 0))
    at = found.starts[rows] + _ARRAY_HEAD
    # The first element of every array, then the second: each begins where the one before it ends.
    for place in range(int(sizes[rows].max()) if len(rows) else 0):
        more = sizes[rows] > place
        if not more.all():
            rows, at = rows[more], at[more]
        size = gather(found.data, at, ">i4").astype(np.int64)
        starts[firsts[rows] + place] = at + 4
        lengths[firsts[rows] + place] = size
        at = at + 4 + np.maximum(size, 0)
    return Cells(found.data, starts, lengths)
