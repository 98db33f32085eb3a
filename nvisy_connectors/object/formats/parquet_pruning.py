"""Which rows a condition cannot be true of, told by statistics and by the names of folders.

Whatever is not sure counts as possible. A comparison is only used if DuckDB makes it without a cast
of the column that may fail on a value: what is left out must not have failed either.
"""

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_dagster.sdk.push_down import AllOf, AnyOf, Compare, Condition, Unknown, Value, folded

Key = Any
"""A value in a form in which all those of a column compare: bytes of a text, days of a date,
microseconds of a timestamp, numbers as they are."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?")
_ZONED = re.compile(rf"{_TIME.pattern}(Z|[+-]\d\d:\d\d)")
_DIGITS = 18
"""Most digits of a literal: DuckDB makes decimals of 38 of it and an integer together."""
_BIGINT_DIGITS = 19
_DECIMAL_DIGITS = 38
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - of times without a zone
_NANOSECONDS_REACH = (2**63 - 1) // 1000
"""Microseconds from 1970 on, either way."""
_UNITS = {"milliseconds": 1000, "microseconds": 1, "nanoseconds": Decimal("0.001")}


@dataclass(frozen=True)
class Bounds:
    """What is known of the values of a column in some rows."""

    nulls: bool = True
    """Whether some may be null."""
    values: bool = True
    """Whether some may be not null."""
    low: Key | None = None
    high: Key | None = None


def literal(value: Value | None, kind: pa.DataType) -> tuple[Key, Key] | None:
    """Between what a value is when it is compared with a column of a type.

    Numbers may be rounded for it. `None` if the two are not comparable without a cast that may
    fail.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for fits, make in _LITERALS:
        if fits(kind):
            return make(value, kind)
    return None


def may_be_true(condition: Condition, bounds: Callable[[str], Bounds], schema: pa.Schema) -> bool:
    """Whether a condition may be true of some row.

    Args:
        condition: All of its comparisons are `literal`s of their columns' types.
        bounds: What is known of a column, by its name without regard to case.
        schema: The columns.
    """
    match condition:
        case Unknown():
            return True
        case AllOf(parts):
            return all(may_be_true(part, bounds, schema) for part in parts)
        case AnyOf(parts):
            return any(may_be_true(part, bounds, schema) for part in parts)
        case Compare():
            field = next(one for one in schema if folded(one.name) == folded(condition.column))
            return _may_compare(condition, bounds(folded(condition.column)), field.type)


def _may_compare(compare: Compare, bounds: Bounds, kind: pa.DataType) -> bool:  # noqa: PLR0911 - a table
    if compare.operator == "is null":
        return bounds.nulls
    if not bounds.values or compare.operator == "is not null":
        return bounds.values
    if bounds.low is None or bounds.high is None:
        return True
    found = literal(compare.value, kind)
    assert found is not None  # noqa: S101 - as promised
    low, high = found
    # NaN is in no statistics, and larger than all numbers.
    no_nan = not pa.types.is_floating(kind)
    match compare.operator:
        case "=":
            return low <= bounds.high and high >= bounds.low
        case "<":
            return bounds.low < high
        case "<=":
            return bounds.low <= high
        case ">":
            return not no_nan or bounds.high > low
        case ">=":
            return not no_nan or bounds.high >= low
        case _:
            exact = no_nan and low == high and not isinstance(low, bytes)
            return not exact or not bounds.low == bounds.high == low


def bounds_of_chunk(
    metadata: pq.FileMetaData, group: int, column: int, kind: pa.DataType
) -> Bounds:
    """What the statistics of a column in a row group tell.

    Args:
        metadata: Of the file.
        group: Which row group.
        column: Which column chunk.
        kind: Type of the column as it is read.
    """
    chunk = metadata.row_group(group).column(column)
    told = chunk.statistics if chunk.is_stats_set else None
    if told is None or pa.types.is_nested(kind):  # those count parts of a value
        return Bounds()
    nulls = told.null_count if told.has_null_count else None
    found = Bounds(nulls != 0, nulls is None or nulls < chunk.num_values)
    if not told.has_min_max:
        return found
    low, high = told.min_raw, told.max_raw
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    made = _key_maker(metadata.schema.column(column), kind)
    if made is None:
        return found
    low, high = made(low), made(high)
    if low != low or high != high or low > high:  # noqa: PLR0124 - NaN
        return found
    return Bounds(found.nulls, found.values, low, high)


def bounds_of_value(value: pa.Scalar) -> Bounds:
    """What is known where a column has one value in all rows."""
    known = value.as_py()
    if known is None:
        return Bounds(nulls=True, values=False)
    if isinstance(known, str):
        known = known.encode()
    elif isinstance(known, dt.datetime):
        known = _micros(known)
    elif isinstance(known, dt.date):
        known = _days(known)
    elif not isinstance(known, int):
        return Bounds(nulls=False)
    return Bounds(nulls=False, low=known, high=known)


def _key_maker(column: Any, kind: pa.DataType) -> Callable[[Any], Key] | None:  # noqa: ANN401, PLR0911 - a class that pyarrow does not name; a table
    """From how a value stands in statistics to its key; `None` if that is not known."""
    logical: Mapping[str, Any] = json.loads(column.logical_type.to_json())
    physical, what = column.physical_type, logical["Type"]
    integral = physical in {"INT32", "INT64"}
    if pa.types.is_integer(kind) and integral and what in {"None", "Int"}:
        if what == "Int" and not logical["isSigned"]:
            bits = 32 if physical == "INT32" else 64
            return lambda raw: raw % (1 << bits)
        return int
    if pa.types.is_floating(kind) and physical in {"FLOAT", "DOUBLE"}:
        return float
    if pa.types.is_boolean(kind) and physical == "BOOLEAN":
        return int
    if is_text(kind) and physical == "BYTE_ARRAY":
        return bytes
    if pa.types.is_date32(kind) and integral and what == "Date":
        return int
    if pa.types.is_timestamp(kind) and integral and what == "Timestamp":
        unit = _UNITS[logical["timeUnit"]]
        return lambda raw: raw * unit
    if pa.types.is_decimal(kind) and what == "Decimal":
        return lambda raw: _decimal(raw, logical["scale"])
    return None


def _decimal(raw: int | bytes, scale: int) -> Decimal:
    whole = int.from_bytes(raw, "big", signed=True) if isinstance(raw, bytes) else raw
    return Decimal((int(whole < 0), tuple(map(int, str(abs(whole)))), -scale))


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are texts."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_micros(kind: pa.DataType) -> bool:
    # Coarser ones are multiplied when they are compared, which fails for far years.
    return pa.types.is_timestamp(kind) and kind.unit in {"us", "ns"}


def _of_number(value: Value | None, kind: pa.DataType) -> tuple[Key, Key] | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # The column is rounded to a double.
        return math.nextafter(value, -math.inf), math.nextafter(value, math.inf)
    digits, scale = _shape(value)
    if digits > _DIGITS or scale > _DIGITS:
        return None
    if pa.types.is_decimal(kind):
        whole = max(kind.precision - kind.scale, _BIGINT_DIGITS)
        if kind.scale < 0 or whole + max(kind.scale, scale) > _DECIMAL_DIGITS:
            return None
    return value, value


def _of_float(value: Value | None, kind: pa.DataType) -> tuple[Key, Key] | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    shapes = (0, 0) if isinstance(value, float) else _shape(value)
    if max(shapes) > _DIGITS or not math.isfinite(value):
        return None
    forms: list[Key] = [value, float(value)]
    if pa.types.is_float32(kind):
        with np.errstate(over="ignore"):
            forms.append(float(np.float32(float(value))))
    return min(forms), max(forms)


def _shape(value: int | Decimal) -> tuple[int, int]:
    """Digits, and how many of them are behind the point."""
    told = Decimal(value).as_tuple()
    exponent = int(told.exponent)
    return max(len(told.digits) + max(exponent, 0), -exponent), max(-exponent, 0)


def _of_text(value: Value | None, _: pa.DataType) -> tuple[Key, Key] | None:
    return (value.encode(), value.encode()) if isinstance(value, str) else None


def _of_bool(value: Value | None, _: pa.DataType) -> tuple[Key, Key] | None:
    return (int(value), int(value)) if isinstance(value, bool) else None


def _of_date(value: Value | None, _: pa.DataType) -> tuple[Key, Key] | None:
    if isinstance(value, str):
        try:
            value = dt.date.fromisoformat(value) if _DATE.fullmatch(value) else None
        except ValueError:
            return None
    if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
        return None
    return _days(value), _days(value)


def _of_timestamp(value: Value | None, kind: pa.DataType) -> tuple[Key, Key] | None:
    zoned = kind.tz is not None
    if isinstance(value, str):
        pattern = _ZONED if zoned else _TIME
        try:
            if pattern.fullmatch(value):
                value = dt.datetime.fromisoformat(value)
            elif not zoned and _DATE.fullmatch(value):
                value = dt.date.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, dt.datetime):
        # Without a zone it would be one of the zone of the session.
        if (value.tzinfo is not None) != zoned:
            return None
    elif isinstance(value, dt.date) and not zoned:
        value = dt.datetime.combine(value, dt.time())
    else:
        return None
    micros = _micros(value)
    if kind.unit == "us":
        return micros, micros
    # The rest of a microsecond may be cut off. What nanoseconds do not reach fails on every row.
    return (micros - 1, micros + 1) if abs(micros) < _NANOSECONDS_REACH else None


def _days(value: dt.date) -> int:
    return value.toordinal() - _EPOCH.toordinal()


def _micros(value: dt.datetime) -> int:
    if value.tzinfo is not None:
        value = value.astimezone(dt.UTC).replace(tzinfo=None)
    return (value - _EPOCH) // dt.timedelta(microseconds=1)


_Fits = Callable[[pa.DataType], bool]
_Make = Callable[[Value | None, pa.DataType], tuple[Key, Key] | None]
_LITERALS: tuple[tuple[_Fits, _Make], ...] = (
    (lambda kind: pa.types.is_integer(kind) or pa.types.is_decimal128(kind), _of_number),
    (lambda kind: pa.types.is_float32(kind) or pa.types.is_float64(kind), _of_float),
    (is_text, _of_text),
    (pa.types.is_boolean, _of_bool),
    (pa.types.is_date32, _of_date),
    (_is_micros, _of_timestamp),
)
