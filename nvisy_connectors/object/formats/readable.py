"""Values as text shows them: ids of the envelope as UUIDs, times with all their digits."""

import base64
import datetime as dt
import decimal
import uuid

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
