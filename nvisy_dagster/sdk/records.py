"""Records as pydantic models and as rows of a batch.

A row is a mapping from column to value, as `RecordBatch.to_pylist` gives it: ids are 16 bytes,
JSON-valued fields are JSON text.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

import pyarrow as pa
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from nvisy_dagster.sdk.arrow_schema import Shape, column_of, columns_of, schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.errors import DataError
from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS, Record

_CONVERSION_ERRORS = (pa.ArrowException, ValueError, TypeError, OverflowError)


def row_to_record(row: Mapping[str, Any], primitive: str) -> Record:
    """The model of one row.

    Raises:
        DataError: The row is not a valid record of this primitive; row 0 has the reason.
    """
    try:
        return PRIMITIVE_MODELS[primitive].model_validate(_fields(row, primitive))
    except ValueError as error:
        reason = reason_of(error)
        raise DataError(f"not a valid {primitive} record: {reason}", rows={0: reason}) from error


def record_to_row(record: Record) -> dict[str, Any]:
    """The columns of one record, envelope first."""
    row: dict[str, Any] = {}
    shapes = columns_of(record.primitive)
    for name in type(record).model_fields:
        column = column_of(name)
        if column in shapes:
            row[column] = _stored(getattr(record, name), shapes[column])
    return row | record.columns


def batch_to_records(batch: pa.RecordBatch, primitive: str) -> list[Record]:
    """The models of all rows of a batch.

    Raises:
        DataError: Some rows are not valid records of this primitive.
    """
    records: list[Record] = []
    failed: dict[int, str] = {}
    for index, row in enumerate(readable_rows(batch, failed)):
        if index in failed:
            continue
        try:
            records.append(row_to_record(row, primitive))
        except DataError as error:
            failed[index] = error.rows[0]
    raise_failed(failed, batch.num_rows, primitive)
    return records


def records_to_batch(
    records: Sequence[Record], primitive: str, schema: pa.Schema | None = None
) -> pa.RecordBatch:
    """A batch of records of one primitive.

    Args:
        records: The records; the dimension of vectors is that of the first.
        primitive: Name of their primitive.
        schema: Types of all columns. Without it, columns beyond those of the primitive get the type
            that their values suggest.

    Raises:
        ConfigError: There is neither a record nor a schema to know the dimension of vectors from.
        DataError: Some values do not fit their column.
    """
    model = PRIMITIVE_MODELS[primitive]
    for record in records:
        if not isinstance(record, model):
            raise TypeError(f"a {record.primitive} record cannot be in a batch of {primitive}")
    return rows_to_batch([record_to_row(record) for record in records], primitive, schema)


def rows_to_batch(
    rows: Sequence[Mapping[str, Any]], primitive: str, schema: pa.Schema | None = None
) -> pa.RecordBatch:
    """A batch of rows of one primitive; see `records_to_batch`. Values are not validated."""
    base = schema or schema_of(primitive, _dimensions(rows, primitive))
    names = dict.fromkeys(base.names)
    for row in rows:
        names.update(dict.fromkeys(row))
    failed: dict[int, str] = {}
    fields: list[pa.Field] = []
    arrays: list[pa.Array] = []
    for name in names:
        known = base.field(name) if name in base.names else None
        values = [row.get(name) for row in rows]
        array = _array(values, known.type if known is not None else None, name, failed)
        if array is not None:
            arrays.append(array)
            fields.append(known if known is not None else pa.field(name, array.type))
    raise_failed(failed, len(rows), primitive)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, metadata=base.metadata))


def readable_rows(batch: pa.RecordBatch, failed: dict[int, str]) -> list[dict[str, Any]]:
    """The rows as Python values; those that Python cannot represent are empty and told."""
    try:
        return batch.to_pylist()
    except _CONVERSION_ERRORS:
        return [_readable_row(batch.slice(index, 1), index, failed) for index in range(len(batch))]


def raise_failed(failed: Mapping[int, str], total: int, primitive: str) -> None:
    """Raise one `DataError` that tells the reason of every failed row, if there is one."""
    if not failed:
        return
    first = min(failed)
    raise DataError(
        f"{len(failed)} of {total} rows are not valid {primitive} records; "
        f"row {first}: {failed[first]}",
        rows=dict(sorted(failed.items())),
    )


def reason_of(error: ValueError) -> str:
    """Why pydantic refused a record, as `column: reason`, without the value."""
    if not isinstance(error, ValidationError):
        return str(error)
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{_path(detail['loc'])}: {detail['msg']}" for detail in details)


def _path(location: tuple[int | str, ...]) -> str:
    head, *rest = location
    return column_of(str(head)) + "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest
    )


def _fields(row: Mapping[str, Any], primitive: str) -> dict[str, Any]:
    shapes = columns_of(primitive)
    values: dict[str, Any] = {}
    # Without its id a record would silently get a new one.
    values["id"] = row.get("_id")
    values["root_id"] = row.get("_root_id")
    columns: dict[str, Any] = {}
    for column, value in row.items():
        shape = shapes.get(column)
        name = column.removeprefix("_") if column in ENVELOPE_NAMES else column
        if shape is None:
            columns[column] = value
        elif value is None and column in {"_tags", "_metadata"}:
            continue
        elif value is not None and shape.kind in {"json", "json_object"}:
            values[name] = _parsed(value, column)
        else:
            values[name] = value
    return values | {"columns": columns}


def _parsed(text: str, column: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"{column}: not valid JSON: {error}") from error


def _stored(value: Any, shape: Shape) -> Any:  # noqa: ANN401 - any value of a record
    if value is None and shape.nullable:
        return None
    if shape.kind in {"json", "json_object"}:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if shape.kind == "struct" and isinstance(value, BaseModel):
        return {name: _stored(getattr(value, name), inner) for name, inner in shape.fields.items()}
    if shape.item is not None:
        return [_stored(item, shape.item) for item in cast("list[Any]", value)]
    return value.bytes if isinstance(value, UUID) else value


def _dimensions(rows: Sequence[Mapping[str, Any]], primitive: str) -> int | None:
    for column, shape in columns_of(primitive).items():
        if shape.kind == "vector":
            return next((len(row[column]) for row in rows if row.get(column)), None)
    return None


def _array(
    values: list[Any], kind: pa.DataType | None, name: str, failed: dict[int, str]
) -> pa.Array | None:
    try:
        return pa.array(values, kind)
    except _CONVERSION_ERRORS as error:
        _tell_misfits(values, kind, name, failed, error)
        return None


def _tell_misfits(
    values: list[Any],
    kind: pa.DataType | None,
    name: str,
    failed: dict[int, str],
    error: Exception,
) -> None:
    told = len(failed)
    for index, value in enumerate(values):
        try:
            # Without a given type, the first value that has one sets it for the column.
            kind = pa.array([value], kind).type if value is not None else kind
        except _CONVERSION_ERRORS as misfit:
            failed.setdefault(index, f"{name}: {misfit}")
    if len(failed) == told:
        failed.update({i: f"{name}: {error}" for i in range(len(values)) if i not in failed})


def _readable_row(row: pa.RecordBatch, index: int, failed: dict[int, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except _CONVERSION_ERRORS as error:
            failed.setdefault(index, f"{name}: {error}")
    return {} if index in failed else values
