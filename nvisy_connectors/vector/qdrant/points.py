"""Arrow batches -> points: ids and payloads as Qdrant wants them."""

import base64
import datetime as dt
import decimal
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from nvisy_connectors.vector.qdrant.store import GRAPH_FIELD, SINK_FIELD, Owner, Points

ENVELOPE_FIELDS = ("_root_id", "_parent_ids", "_source", "_created_at", "_tags", "_metadata")
"""Envelope columns that are kept in the payload; `_id` is the point's own id."""

VECTOR = "vector"

_HEX = 32
"""Hexadecimal digits of an id."""


def to_points(batch: pa.RecordBatch, *, columns: Sequence[str], owner: Owner) -> Points:
    """Turn records into points.

    Args:
        batch: Records with envelope and a `vector` column, all of them fit to be written.
        columns: Payload columns to keep.
        owner: Who writes them.
    """
    names = [*ENVELOPE_FIELDS, *columns, SINK_FIELD, GRAPH_FIELD]
    values = [_envelope_values(name, batch.column(name)) for name in ENVELOPE_FIELDS]
    values += [to_json_values(batch.column(name)) for name in columns]
    values += [[owner.node] * batch.num_rows, [owner.graph] * batch.num_rows]
    return Points(
        ids=to_uuids(batch.column("_id")),
        vectors=vectors_of(batch.column(VECTOR)),
        payloads=[dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)],
    )


def dimension_of(column_type: pa.DataType) -> int | None:
    """Dimension of the vectors of a column; `None` when it is no column of vectors."""
    if pt.is_fixed_size_list(column_type) and pt.is_floating(column_type.value_type):
        return int(column_type.list_size)
    return None


def vectors_of(column: pa.Array) -> npt.NDArray[np.float32]:
    """`fixed_size_list<floating>[d]` -> `(n, d)`; a null is anything at all."""
    dimension = column.type.list_size
    values = column.values.slice(column.offset * dimension, len(column) * dimension)
    flat = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, np.float32).reshape(len(column), dimension)


def unfit_rows(column: pa.Array) -> dict[int, str]:
    """Rows whose vector cannot be stored, each with the reason."""
    finite = np.isfinite(vectors_of(column)).all(axis=1)
    reasons = {
        int(row): "the vector holds a NaN, an infinity or a null" for row in np.flatnonzero(~finite)
    }
    if column.null_count:
        nulls = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        reasons |= {int(row): "the vector is null" for row in nulls}
    return dict(sorted(reasons.items()))


def to_uuids(column: pa.Array) -> list[str]:
    """`fixed_size_binary(16)` without nulls -> UUIDs as text."""
    return format_uuids(column.cast(pa.binary()).to_pylist())


def format_uuids(ids: Sequence[bytes]) -> list[str]:
    """Ids of 16 bytes -> UUIDs as text."""
    digits = b"".join(ids).hex()
    return [
        f"{digits[i : i + 8]}-{digits[i + 8 : i + 12]}-{digits[i + 12 : i + 16]}"
        f"-{digits[i + 16 : i + 20]}-{digits[i + 20 : i + _HEX]}"
        for i in range(0, len(digits), _HEX)
    ]


def to_json_values(column: pa.Array) -> list[Any]:
    """A column as JSON values.

    Times become ISO 8601 text, decimals text, bytes base64; what JSON cannot hold (NaN, infinities)
    becomes null.
    """
    kind = column.type
    if pt.is_boolean(kind) or pt.is_integer(kind) or pt.is_string(kind) or pt.is_large_string(kind):
        return column.to_pylist()
    if pt.is_floating(kind):
        numbers = column.cast(pa.float64())
        finite = np.isfinite(numbers.to_numpy(zero_copy_only=False))
        return numbers.to_pylist() if finite.all() else _only(numbers.to_pylist(), finite)
    if pt.is_timestamp(kind):
        return _times(column)
    return [_to_json_value(value) for value in column.to_pylist()]


def _envelope_values(name: str, column: pa.Array) -> list[Any]:
    if name == "_root_id":
        return to_uuids(column)
    if name == "_parent_ids":
        ids = to_uuids(column.flatten())
        ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))
        return [
            ids[end - length : end]
            for end, length in zip(ends.tolist(), column.value_lengths().to_pylist(), strict=True)
        ]
    if name == "_metadata":
        return [_parse_object(text) for text in column.to_pylist()]
    return to_json_values(column)


def _parse_object(text: str | None) -> object:
    # As an object its fields can be filtered by; any other JSON stays the text that it is.
    if text is None or not text.startswith("{"):
        return text
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return text


def _only(values: list[Any], mask: npt.NDArray[np.bool_]) -> list[Any]:
    return [value if kept else None for value, kept in zip(values, mask.tolist(), strict=True)]


def _times(column: pa.Array) -> list[str | None]:
    """ISO 8601, in microseconds; UTC when the column has a time zone."""
    zone = column.type.tz
    ticks = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    moments = ticks.fill_null(0).to_numpy().astype("datetime64[us]")
    texts = np.datetime_as_string(moments, timezone="UTC" if zone else "naive").tolist()
    return _only(texts, column.is_valid().to_numpy(zero_copy_only=False))


def _to_json_value(value: object) -> object:  # noqa: PLR0911 - one return per kind of value
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode()
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal() | dt.timedelta():
            return str(value)
        case Mapping():
            return {str(key): _to_json_value(item) for key, item in value.items()}
        case list() | tuple():
            return [_to_json_value(item) for item in value]
        case _:
            return str(value)
