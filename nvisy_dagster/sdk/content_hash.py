"""Content hash of records: SHA-256 of their payload in a canonical form.

The form depends on values alone: not on where batches are cut, on the order of columns, on the
width of numbers, or on how Arrow holds a text. A null column and a missing one are the same; the
envelope is not part of it. Every value is one kind letter and a self-delimiting encoding:

    n null          b bool, 1 byte          i integer, 16 bytes little-endian two's complement
    f float64       t text, x bytes, q the text of another scalar: length (8 bytes), then bytes
    y date: days since 1970 (8 bytes)
    z moment in UTC, d naive moment, h time of day, u duration: seconds, nanoseconds (8 bytes each)
    l list: number of items (8 bytes), items
    s struct or record: for each field that is not null, by name: t name, value; then e
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk.envelope import payload

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

DIGEST = pa.binary(32)

_BYTES = pa.large_binary()
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def content_hashes(batch: pa.RecordBatch) -> pa.Array:
    """The content hash of each record of a batch: `fixed_size_binary(32)`, no nulls."""
    columns = payload(batch)
    encoded = _struct(columns.schema.names, columns.columns, columns.num_rows)
    offsets = _offsets(encoded)
    data = memoryview(encoded.buffers()[2] or b"")
    sha256 = hashlib.sha256
    digests = b"".join([
        sha256(data[start:end]).digest()
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ])
    return pa.Array.from_buffers(DIGEST, batch.num_rows, [None, pa.py_buffer(digests)])


def _encode(array: pa.Array) -> pa.Array:  # noqa: PLR0911 - one per kind of type
    """One encoding per value, `large_binary`; null where the value is null."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _encode(array.storage)
    if pa.types.is_dictionary(kind):
        return _encode(array.cast(kind.value_type))
    if pa.types.is_run_end_encoded(kind):
        return _encode(pc.run_end_decode(array))
    if pa.types.is_struct(kind):
        children = [array.field(i) for i in range(kind.num_fields)]
        encoded = _struct([field.name for field in kind], children, len(array))
        return pc.if_else(array.is_valid(), encoded, pa.scalar(None, _BYTES))
    if pa.types.is_map(kind):
        entries = pa.struct([kind.key_field, kind.item_field])
        return _list(array.cast(pa.list_(entries)))
    if pa.types.is_nested(kind):
        return _list(array)
    return _scalar(array)


def _struct(names: list[str], arrays: list[pa.Array], length: int) -> pa.Array:
    pieces = [pa.repeat(pa.scalar(b"s", _BYTES), length)]
    for name, array in sorted(zip(names, arrays, strict=True), key=lambda pair: pair[0]):
        encoded = _encode(array)
        label = name.encode()
        header = pa.scalar(b"t" + len(label).to_bytes(8, "little") + label, _BYTES)
        if encoded.null_count:
            header = pc.if_else(encoded.is_valid(), header, pa.scalar(None, _BYTES))
        pieces.extend((header, encoded))
    return _join(*pieces, pa.scalar(b"e", _BYTES), nulls="skip")


def _list(array: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    items = _encode(array.flatten()).fill_null(b"n")
    ends = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    offsets = np.ascontiguousarray(_offsets(items)[ends])
    joined = pa.LargeBinaryArray.from_buffers(
        _BYTES, len(array), [None, pa.py_buffer(offsets), items.buffers()[2]]
    )
    return _join(_words(b"l", lengths.astype("<i8")[:, None], array), joined)


def _scalar(array: pa.Array) -> pa.Array:
    for is_kind, encode in _ENCODERS:
        if is_kind(array.type):
            return encode(array)
    texts = [None if value is None else str(value).encode() for value in array.to_pylist()]
    return _prefixed(b"q", pa.array(texts, _BYTES))


def _truths(array: pa.Array) -> pa.Array:
    filled = array.fill_null(fill_value=False).to_numpy(zero_copy_only=False)
    return _words(b"b", filled[:, None], array)


def _floats(array: pa.Array) -> pa.Array:
    # Adding 0.0 turns -0.0 into 0.0; there is one NaN.
    numbers = array.fill_null(0.0).to_numpy(zero_copy_only=False).astype("<f8") + 0.0
    numbers[np.isnan(numbers)] = np.nan
    return _words(b"f", numbers[:, None], array)


def _texts(array: pa.Array) -> pa.Array:
    return _prefixed(b"t", array.cast(pa.large_string()).cast(_BYTES))


def _binaries(array: pa.Array) -> pa.Array:
    return _prefixed(b"x", array.cast(pa.binary()).cast(_BYTES))


def _large_binaries(array: pa.Array) -> pa.Array:
    return _prefixed(b"x", array.cast(_BYTES))


def _nulls(array: pa.Array) -> pa.Array:
    return pa.nulls(len(array), _BYTES)


def _integers(array: pa.Array) -> pa.Array:
    filled = array.fill_null(0).to_numpy(zero_copy_only=False)
    words = np.empty((len(filled), 2), "<i8")
    unsigned = filled.dtype == np.uint64
    words[:, 0] = filled.view(np.int64) if unsigned else filled
    words[:, 1] = 0 if unsigned else words[:, 0] >> 63
    return _words(b"i", words, array)


def _moments(array: pa.Array) -> pa.Array:
    return _ticks(b"z" if array.type.tz else b"d", array)


def _times(array: pa.Array) -> pa.Array:
    return _ticks(b"h", array)


def _durations(array: pa.Array) -> pa.Array:
    return _ticks(b"u", array)


def _ticks(letter: bytes, array: pa.Array) -> pa.Array:
    ticks = _TICKS[array.type.unit]
    words = np.empty((len(array), 2), "<i8")
    words[:, 0], words[:, 1] = np.divmod(_counts(array), ticks)
    words[:, 1] *= 10**9 // ticks
    return _words(letter, words, array)


def _dates(array: pa.Array) -> pa.Array:
    days = _counts(array)
    if pa.types.is_date64(array.type):
        days //= 86_400_000
    return _words(b"y", days[:, None], array)


def _counts(array: pa.Array) -> npt.NDArray[np.int64]:
    """What Arrow holds of times: Python's own types do not reach as far, nor are they as fine."""
    whole = array.cast(pa.int32()) if array.type.bit_width == 32 else array  # noqa: PLR2004 - bits
    filled = whole.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return filled.astype("<i8")


def _decimals(array: pa.Array) -> pa.Array:
    texts: list[bytes | None] = []
    for value in array.to_pylist():
        text = None if value is None else f"{value:f}"
        if text is not None and "." in text:
            text = text.rstrip("0").removesuffix(".")
        texts.append(None if text is None else text.encode())
    return _prefixed(b"q", pa.array(texts, _BYTES))


def _prefixed(letter: bytes, array: pa.Array) -> pa.Array:
    lengths = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    return _join(_words(letter, lengths.astype("<i8")[:, None], array), array)


def _words(letter: bytes, words: npt.NDArray[Any], like: pa.Array) -> pa.Array:
    """A letter and the bytes of each row of `words`; null where `like` is null."""
    values = np.ascontiguousarray(words).view(np.uint8)
    width = values.shape[1] + 1
    cells = np.empty((len(values), width), np.uint8)
    cells[:, 0] = letter[0]
    cells[:, 1:] = values
    offsets = np.arange(len(values) + 1, dtype=np.int64) * width
    validity = like.is_valid().buffers()[1] if like.null_count else None
    return pa.LargeBinaryArray.from_buffers(
        _BYTES, len(values), [validity, pa.py_buffer(offsets), pa.py_buffer(cells)]
    )


def _join(*pieces: pa.Array | pa.Scalar, nulls: str = "emit_null") -> pa.Array:
    return pc.binary_join_element_wise(*pieces, pa.scalar(b"", _BYTES), null_handling=nulls)


def _offsets(array: pa.Array) -> npt.NDArray[np.int64]:
    buffer = array.buffers()[1]
    return np.frombuffer(buffer, np.int64, len(array) + 1, 8 * array.offset)


_ENCODERS: Sequence[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]]] = (
    (pa.types.is_boolean, _truths),
    (pa.types.is_integer, _integers),
    (pa.types.is_floating, _floats),
    (pa.types.is_timestamp, _moments),
    (pa.types.is_date, _dates),
    (pa.types.is_time, _times),
    (pa.types.is_duration, _durations),
    (pa.types.is_decimal, _decimals),
    (pa.types.is_null, _nulls),
    (pa.types.is_string, _texts),
    (pa.types.is_large_string, _texts),
    (pa.types.is_string_view, _texts),
    (pa.types.is_fixed_size_binary, _binaries),
    (pa.types.is_binary, _large_binaries),
    (pa.types.is_large_binary, _large_binaries),
    (pa.types.is_binary_view, _large_binaries),
)
