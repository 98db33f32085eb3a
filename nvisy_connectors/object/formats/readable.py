"""Values as text shows them: ids of the envelope as UUIDs, times with all their digits."""

import base64
import datetime as dt
import decimal
import uuid
from collections.abc import Iterator
from typing import Any

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
    if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
        # Python's times have microseconds; as text the last digits survive.
        return pc.call_function("strftime", [array], pc.StrftimeOptions("%Y-%m-%dT%H:%M:%S"))
    return array


NO_NUMBER = "JSON has no NaN and no infinite numbers"
"""Why a record cannot be written."""


def json_values(array: pa.Array) -> tuple[list[Any], dict[int, str]]:
    """Values of a column as JSON has them, and why it cannot have some, by place.

    Maps are objects where their keys are texts or whole numbers, else lists of pairs.
    """
    keys = list(_map_keys(array.type))
    if not keys or not all(map(_is_member_name, keys)):
        return array.to_pylist(), {}
    try:
        return array.to_pylist(maps_as_pydicts="strict"), {}
    except KeyError:
        pass
    values: list[Any] = []
    bad: dict[int, str] = {}
    for place, value in enumerate(array):
        try:
            values.append(value.as_py(maps_as_pydicts="strict"))
        except KeyError:
            values.append(None)
            bad[place] = "a map in it has a key twice, and an object of JSON cannot"
    return values, bad


def holds_map(kind: pa.DataType) -> bool:
    """Whether there are maps in values of a type."""
    return any(True for _ in _map_keys(kind))


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
