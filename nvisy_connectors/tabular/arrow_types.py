"""Types between Arrow and DuckDB: what DuckDB can read, and what its results are stored as."""

import pyarrow as pa

from nvisy_connectors.tabular.widening import fit, whole_decimal


def readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with columns widened that DuckDB has no type for.

    Raises:
        pa.ArrowException: A column cannot be widened.
    """
    arrays: list[pa.Array] = []
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        kind = _given_type(array.type)
        if kind is None:
            raise pa.ArrowInvalid(f"{name!r} is of type {array.type}, which DuckDB does not know")
        arrays.append(fit(array, kind))
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _given_type(kind: pa.DataType) -> pa.DataType | None:  # noqa: PLR0911 - one per kind of type
    """The type as which DuckDB reads values of a type, at whatever depth."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal(kind):
        return kind if kind.scale >= 0 else whole_decimal(kind)
    if pa.types.is_dictionary(kind):
        inner = _given_type(kind.value_type)
        return kind if inner == kind.value_type else inner
    if not pa.types.is_nested(kind) or pa.types.is_run_end_encoded(kind):
        return kind
    fields = [kind.field(place) for place in range(kind.num_fields)]
    found = [_given_type(field.type) for field in fields]
    if None in found:
        return None
    if all(one == field.type for one, field in zip(found, fields, strict=True)):
        return kind
    return _with_fields(kind, [f.with_type(one) for f, one in zip(fields, found, strict=True)])


def _with_fields(kind: pa.DataType, fields: list[pa.Field]) -> pa.DataType | None:
    if pa.types.is_struct(kind):
        return pa.struct(fields)
    if pa.types.is_map(kind):
        return pa.map_(fields[0].type.field(0), fields[0].type.field(1))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(fields[0], kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(fields[0])
    return pa.list_(fields[0]) if pa.types.is_list(kind) else None


def unsliced(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with all structs within others, or within lists, where their memory begins.

    A part of a larger batch may have them elsewhere: DuckDB refuses those.
    """
    for place, array in enumerate(batch.columns):
        if _holds_slice(array):
            own = pa.concat_arrays([array])  # a copy of no more than what is in the batch
            batch = batch.set_column(place, batch.schema.field(place), own)
    return batch


def _holds_slice(array: pa.Array) -> bool:
    inner: list[pa.Array] = []
    if pa.types.is_struct(array.type):
        inner = [array.field(place) for place in range(array.type.num_fields)]
    elif any(is_list(array.type) for is_list in _LISTS):
        inner = [array.values]
    return any(
        (pa.types.is_struct(one.type) and one.offset > 0) or _holds_slice(one) for one in inner
    )


_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_map,
)


def stored_type(kind: pa.DataType) -> pa.DataType | None:  # noqa: PLR0911 - one per kind of type
    """The type that results of a type of DuckDB's are cast to; `None` for one without values.

    DuckDB names the items of lists its own way and knows `UTC` as `Etc/UTC`.
    """
    if pa.types.is_null(kind):
        return None
    if pa.types.is_timestamp(kind):
        return pa.timestamp(kind.unit, kind.tz and "UTC")
    if pa.types.is_map(kind):
        key, item = stored_type(kind.key_type), stored_type(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_fixed_size_list(kind):
        value = stored_type(kind.value_type)
        return None if value is None else pa.list_(value, kind.list_size)
    if pa.types.is_list(kind):
        value = stored_type(kind.value_type)
        return None if value is None else pa.list_(value)
    if pa.types.is_struct(kind):
        found = [(field.name, stored_type(field.type)) for field in kind]
        return None if any(value is None for _, value in found) else pa.struct(found)
    return kind
