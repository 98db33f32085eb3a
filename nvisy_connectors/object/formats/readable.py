"""Values as text shows them: ids of the envelope as UUIDs, times with all their digits."""

import base64
import datetime as dt
import decimal
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, ID
from nvisy_dagster.sdk.identity import format_uuid


def readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, for people and other programs."""
    arrays = [readable_column(n, a) for n, a in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def readable_column(name: str, array: pa.Array) -> pa.Array:
    """One column of `readable`."""
    if name in ENVELOPE_NAMES and array.type == ID:
        return pa.array([None if v is None else format_uuid(v) for v in array.to_pylist()])
    if name in ENVELOPE_NAMES and pa.types.is_list(array.type) and array.type.value_type == ID:
        return pa.array(
            [[format_uuid(v) for v in values] for values in array.to_pylist()],
            pa.list_(pa.string()),
        )
    if pa.types.is_interval(array.type):
        return pa.array([_spelled(value) for value in array.to_pylist()], pa.string())
    if far := too_far(array):
        mask = np.zeros(len(array), np.bool_)
        mask[list(far)] = True
        array = pc.call_function("if_else", [mask, pa.scalar(None, array.type), array])
    if pa.types.is_timestamp(array.type) and array.type.unit in {"ms", "ns"}:
        # Python's times have microseconds, no more and no fewer digits.
        form = "%Y-%m-%dT%H:%M:%S%Ez" if array.type.tz else "%Y-%m-%dT%H:%M:%S"
        return pc.call_function("strftime", [array], pc.StrftimeOptions(form))
    return array.cast(pa.string()) if array.type == pa.time64("ns") else array


NO_NUMBER = "JSON has no NaN and no infinite numbers"
TOO_FAR = "a time in it is not within the years 1 to 9999"
"""Why a record cannot be written."""

_YEARS = (-62_135_596_800, 253_402_300_799)
"""The first and the last second of those that have four digits."""
_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY = 86_400


def too_far(array: pa.Array) -> dict[int, str]:
    """The times of a column that no program reads as text, by place, and why."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        counts, unit = array.cast(pa.int64()), _UNITS[kind.unit]
        least, most = _YEARS[0] * unit, _YEARS[1] * unit + unit - 1
    elif pa.types.is_date32(kind):
        counts, (least, most) = array.cast(pa.int32()), (second // _DAY for second in _YEARS)
    else:
        return {}
    found = pc.call_function("min_max", [counts]).as_py()
    if found["min"] is None or least <= found["min"] <= found["max"] <= most:
        return {}
    values = counts.fill_null(0).to_numpy(zero_copy_only=False)
    far = (values < least) | (values > most)
    return dict.fromkeys(np.flatnonzero(far).tolist(), TOO_FAR)


def json_values(array: pa.Array) -> tuple[list[Any], dict[int, str]]:
    """Values of a column as JSON has them, and why it cannot have some, by place.

    Maps are objects where their keys are texts or whole numbers, else lists of pairs. Intervals are
    texts.
    """
    values, bad = _values(array)
    if holds_interval(array.type):
        values = [_spelled(value) for value in values]
    return values, bad


def _values(array: pa.Array) -> tuple[list[Any], dict[int, str]]:
    keys = list(_map_keys(array.type))
    has_names = bool(keys) and all(map(_is_member_name, keys))
    maps = "strict" if has_names else None
    try:
        return array.to_pylist(maps_as_pydicts=maps), {}
    except (KeyError, OverflowError):
        pass
    values: list[Any] = []
    bad: dict[int, str] = {}
    for place, value in enumerate(array):
        try:
            values.append(value.as_py(maps_as_pydicts=maps))
        except KeyError:
            values.append(None)
            bad[place] = "a map in it has a key twice, and an object of JSON cannot"
        except OverflowError:
            values.append(None)
            bad[place] = TOO_FAR
    return values, bad


def holds_map(kind: pa.DataType) -> bool:
    """Whether there are maps in values of a type."""
    return any(True for _ in _map_keys(kind))


def holds_interval(kind: pa.DataType) -> bool:
    """Whether there are intervals in values of a type, or it is one."""
    if pa.types.is_interval(kind):
        return True
    return pa.types.is_nested(kind) and any(
        holds_interval(kind.field(place).type) for place in range(kind.num_fields)
    )


def _spelled(value: Any) -> Any:  # noqa: ANN401 - any value
    """The value with intervals as ISO 8601 has them, each part with a sign of its own.

    To an encoder they are tuples, and become lists of three numbers.
    """
    if isinstance(value, pa.MonthDayNano):
        return _interval(value)
    if isinstance(value, dict):
        return {_spelled(key): _spelled(inner) for key, inner in value.items()}
    return [_spelled(inner) for inner in value] if isinstance(value, list | tuple) else value


def _interval(value: pa.MonthDayNano) -> str:
    """Such as `P1Y2M3DT4H5M6.7S`: months, days and nanoseconds, in larger units."""
    years, months = _parted(value.months, 12)
    minutes, left = _parted(value.nanoseconds, 60 * _UNITS["ns"])
    hours, minutes = _parted(minutes, 60)
    seconds = f"{decimal.Decimal(left).scaleb(-9).normalize():f}"
    days = [(years, "Y"), (months, "M"), (value.days, "D")]
    clock = [(hours, "H"), (minutes, "M"), (seconds if left else 0, "S")]
    date, time = ("".join(f"{n}{unit}" for n, unit in part if n) for part in (days, clock))
    return f"P{date}T{time}" if time else f"P{date or '0D'}"


def _parted(number: int, size: int) -> tuple[int, int]:
    """Whole parts of a size and what is left, both with the sign of the number."""
    whole, left = divmod(abs(number), size)
    return (whole, left) if number >= 0 else (-whole, -left)


def _map_keys(kind: pa.DataType) -> Iterator[pa.DataType]:
    if pa.types.is_map(kind):
        yield kind.key_type
        yield from _map_keys(kind.item_type)
    elif pa.types.is_nested(kind):
        for place in range(kind.num_fields):
            yield from _map_keys(kind.field(place).type)


def _is_member_name(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
    )


def plain(value: object) -> object:
    """What JSON can hold of a value that it has no form for.

    Raises:
        ConfigError: Nothing.
    """
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise ConfigError(
        f"JSON has no form for values of {type(value).__name__}",
        remedy="change the column's type with a `map` before, or write `parquet`",
        tag="schema",
    )
