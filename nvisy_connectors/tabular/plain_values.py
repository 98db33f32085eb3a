"""The records of a batch as plain values: those of JSON, or those of Python."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, cast
from uuid import UUID

import pyarrow as pa
from pydantic_core import from_json

from nvisy_dagster.sdk.envelope import payload
from nvisy_dagster.sdk.json_values import encode_scalar
from nvisy_dagster.sdk.records import readable_rows

Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class Values:
    """A value per row."""

    values: list[Any]
    unreadable: dict[int, str] = field(default_factory=dict[int, str])
    """The reason of each row that has none."""


def json_values(batch: pa.RecordBatch, column: str | None) -> Values:
    """The records, or a column of them, as values of JSON.

    What is NULL is not there; only lists hold `null`. A column of texts is read as JSON.
    """
    if column is not None and _is_text(batch.schema.field(column).type):
        return _parsed(batch.column(column))
    values = python_values(batch, column)
    columns = payload(batch).columns if column is None else [batch.column(column)]
    if not all(_is_plain(one.type) for one in columns):
        return _all_encoded(values)
    if column is None and any(one.null_count for one in columns):
        encoded = [
            {name: value for name, value in row.items() if value is not None}
            for row in values.values
        ]
    else:
        encoded = values.values
    return Values(encoded, values.unreadable)


def python_values(batch: pa.RecordBatch, column: str | None) -> Values:
    """The records, or a column of them, as values of Python. A column of texts is read as JSON."""
    unreadable: dict[int, str] = {}
    if column is None:
        return Values(readable_rows(payload(batch), unreadable), unreadable)
    if _is_text(batch.schema.field(column).type):
        return _parsed(batch.column(column))
    rows = readable_rows(batch.select([column]), unreadable)
    return Values([row.get(column) for row in rows], unreadable)


def _parsed(texts: pa.Array) -> Values:
    unreadable: dict[int, str] = {}
    values: list[Any] = []
    read: Convert = partial(from_json, allow_inf_nan=False)
    for row, text in enumerate(texts.to_pylist()):
        value = None
        try:
            value = None if text is None else read(text)
        except ValueError as error:
            unreadable[row] = f"not valid JSON: {error}"
        values.append(value)
    return Values(values, unreadable)


def _all_encoded(values: Values) -> Values:
    unreadable = dict(values.unreadable)
    encoded: list[Any] = []
    for row, value in enumerate(values.values):
        made = None
        try:
            made = _encoded(value)
        except ValueError as error:
            unreadable.setdefault(row, str(error))
        encoded.append(made)
    return Values(encoded, unreadable)


def _encoded(value: Any) -> Any:  # noqa: ANN401 - any value of a record
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value)
        return {str(k): _encoded(v) for k, v in members.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in cast("list[Any]", value)]
    if value is None or isinstance(value, str | int | float | bool | Decimal):
        return value
    return str(value) if isinstance(value, UUID) else encode_scalar(value)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Python's values of a type are those of JSON."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_boolean,
        _is_text,
    )
    return any(test(kind) for test in tests)
