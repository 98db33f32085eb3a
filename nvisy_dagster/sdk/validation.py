"""Validation of batches against their primitive, a column at a time."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_dagster.sdk.arrow_schema import Shape, columns_of
from nvisy_dagster.sdk.constraints import mark_suspects
from nvisy_dagster.sdk.errors import DataError
from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS
from nvisy_dagster.sdk.records import raise_failed, readable_rows, row_to_record


def validate(batch: pa.RecordBatch, primitive: str, dimensions: int | None = None) -> None:
    """Check that every row of a batch is a valid record of a primitive.

    Columns are checked whole: that they are there and of the right type, nulls, the dimension of
    vectors, finite numbers, JSON text, and every limit that the primitive's model declares. A
    nullable column may be missing; columns beyond those of the primitive are not looked at. Only
    rows that fail go through pydantic, which words the reason.

    Args:
        batch: Envelope and payload columns, in any order.
        primitive: Name of the primitive.
        dimensions: Dimension that its vectors must have; any, when not given.

    Raises:
        DataError: Some rows are not valid; `rows` has `column: reason` for each of them. When a
            column is missing or has the wrong type, these are all rows of the batch.
    """
    _check_columns(batch, primitive, dimensions)
    suspects = np.zeros(batch.num_rows, np.bool_)

    def mark(indexes: npt.NDArray[np.int64]) -> None:
        suspects[indexes] = True

    shapes = columns_of(primitive)
    known = [name for name in batch.schema.names if name in shapes]
    for name in known:
        mark_suspects(batch.column(name), shapes[name], mark)
    if _has_own_validators(primitive):
        suspects[:] = True
    if suspects.any():
        _ask_pydantic(batch.select(known), np.flatnonzero(suspects), primitive)


def _ask_pydantic(batch: pa.RecordBatch, rows: npt.NDArray[np.int64], primitive: str) -> None:
    failed: dict[int, str] = {}
    unreadable: dict[int, str] = {}
    for index, row in enumerate(readable_rows(batch.take(pa.array(rows)), unreadable)):
        if index in unreadable:
            failed[int(rows[index])] = unreadable[index]
            continue
        try:
            row_to_record(row, primitive)
        except DataError as error:
            failed[int(rows[index])] = error.rows[0]
    raise_failed(failed, batch.num_rows, primitive)


@cache
def _has_own_validators(primitive: str) -> bool:
    decorators = PRIMITIVE_MODELS[primitive].__pydantic_decorators__
    fields = {name for v in decorators.field_validators.values() for name in v.info.fields}
    return bool(fields - {"columns"} or decorators.model_validators)


def _check_columns(batch: pa.RecordBatch, primitive: str, dimensions: int | None) -> None:
    names = batch.schema.names
    reasons: list[str] = []
    for name, shape in columns_of(primitive).items():
        found = names.count(name)
        if found > 1:
            reasons.append(f"{name}: the column is there {found} times")
        elif found == 1:
            reasons.extend(_type_reason(name, batch.schema.field(name).type, shape, dimensions))
        elif not shape.nullable:
            reasons.append(f"{name}: the column is missing")
    if reasons:
        raise DataError(
            f"the columns are not those of {primitive} records: {'; '.join(reasons)}",
            rows=dict.fromkeys(range(batch.num_rows), "; ".join(reasons)),
            tag="schema",
        )


def _type_reason(name: str, found: pa.DataType, shape: Shape, dimensions: int | None) -> list[str]:
    if shape.kind == "vector":
        is_vector = pa.types.is_fixed_size_list(found) and found.value_type == pa.float32()
        if not is_vector:
            size = "d" if dimensions is None else dimensions
            return [f"{name}: expected fixed_size_list<float>[{size}], found {found}"]
        if found.list_size != (dimensions or found.list_size) or not found.list_size:
            expected = dimensions or "at least 1"
            return [f"{name}: expected {expected} dimensions, found {found.list_size}"]
        return []
    expected = shape.arrow_type()
    return [] if _same(found, expected) else [f"{name}: expected {expected}, found {found}"]


def _same(found: pa.DataType, expected: pa.DataType) -> bool:
    # Nulls are checked in the data, whatever the schema promises; names of list items differ
    # between producers.
    if pa.types.is_list(expected):
        return pa.types.is_list(found) and _same(found.value_type, expected.value_type)
    if pa.types.is_struct(expected):
        return (
            pa.types.is_struct(found)
            and [field.name for field in found] == [field.name for field in expected]
            and all(_same(a.type, b.type) for a, b in zip(found, expected, strict=True))
        )
    return found.equals(expected)
