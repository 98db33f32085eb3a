"""The columns that records are compared by, as DuckDB is given them.

DuckDB does not tell names apart that differ in case only, and of times it knows some only in
microseconds. So it gets columns by number, and times as the integers that Arrow holds of them.
"""

from collections.abc import Sequence

import pyarrow as pa

from nvisy_connectors.tabular.widening import whole_decimal


class Keys:
    """Some columns of records, made comparable.

    Args:
        names: Their names; one may be there more than once.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(dict.fromkeys(names))

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What DuckDB is given of a batch."""
        keys = batch.select(list(self._names))
        if not self._names:
            return keys
        return pa.RecordBatch.from_arrays(
            [_comparable(array) for array in keys.columns],
            names=[self.sql(name) for name in self._names],
        )

    def sql(self, name: str) -> str:
        """A column in SQL."""
        return f"key_{self._names.index(name)}"


def is_comparable(kind: pa.DataType) -> bool:
    """Whether values of a type are equal, and in an order, in the way that a reader expects.

    Intervals are not: a month has no number of days.
    """
    if pa.types.is_dictionary(kind):
        return is_comparable(kind.value_type)
    refused = (
        pa.types.is_map,
        pa.types.is_union,
        pa.types.is_float16,
        pa.types.is_interval,
        pa.types.is_decimal256,
    )
    if any(is_kind(kind) for is_kind in refused):
        return False
    if isinstance(kind, pa.BaseExtensionType):
        return is_comparable(kind.storage_type)
    if _counts_thousands(kind):
        return whole_decimal(kind) is not None
    return all(
        pa.types.is_null(field.type) or is_comparable(field.type)
        for field in map(kind.field, range(kind.num_fields))
    )


def _counts_thousands(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) and kind.scale < 0


def _comparable(array: pa.Array) -> pa.Array:
    kind = _comparable_type(array.type)
    if kind == array.type:
        return array
    if isinstance(array, pa.ExtensionArray):
        return _comparable(array.storage)
    if pa.types.is_dictionary(array.type):
        return _comparable(array.cast(array.type.value_type))
    return array.cast(kind)


def _comparable_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 - one per kind of type
    if isinstance(kind, pa.BaseExtensionType):
        return _comparable_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        inner = _comparable_type(kind.value_type)
        return kind if inner == kind.value_type else inner
    if _counts_thousands(kind) and (whole := whole_decimal(kind)) is not None:
        return whole
    if pa.types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()  # noqa: PLR2004 - bits
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_comparable_type(field.type)) for field in kind])
    if not pa.types.is_nested(kind) or pa.types.is_run_end_encoded(kind):
        return kind
    item = kind.value_field.with_type(_comparable_type(kind.value_type))
    if item.type == kind.value_type:
        return kind
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(item, kind.list_size)
    return pa.large_list(item)
