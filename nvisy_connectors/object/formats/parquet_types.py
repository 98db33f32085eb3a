"""Declared columns of Parquet files, and making values of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.parquet_changes import changed
from nvisy_connectors.object.formats.records import shown_value

pc: Any = cast("Any", pyarrow.compute)

_MORE: dict[str, pa.DataType] = {
    "date32": pa.date32(),
    "time": pa.time64("us"),
    "binary": pa.binary(),
    "large_string": pa.large_string(),
    "large_binary": pa.large_binary(),
}
SHOWN = 80
"""Most letters of a value in a reason."""

_PARTITIONS = frozenset([pa.string(), pa.date32(), pa.bool_(), pa.timestamp("us", "UTC")])


def parse_parquet_columns(columns: Mapping[str, str]) -> pa.Schema:
    """Declared columns: types as text, those of JSON lines and `date`, `time` and `binary`.

    Raises:
        ValueError: A type cannot be read; names the column.
    """
    return parse_columns(columns, _MORE)


def parse_partitions(columns: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Declared types of columns that folders tell.

    Raises:
        ValueError: A type cannot be read, or no folder's name is a value of it.
    """
    found: dict[str, pa.DataType] = {}
    for one in parse_parquet_columns(columns):
        if one.type not in _PARTITIONS and not pa.types.is_integer(one.type):
            raise ValueError(
                f"column {one.name!r}: the name of a folder is no {one.type}; it can be a string, "
                "a whole number such as int64, a date, a timestamp or bool"
            )
        found[one.name] = one.type
    return found


def written_out(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 - one per kind of type
    """What values of a type in a file are read as: plain texts, not by number or by reference.

    The numbers mean other texts in each row group, and few things can be done with references.
    """
    if pa.types.is_dictionary(kind):
        return written_out(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if isinstance(kind, pa.BaseExtensionType) or not pa.types.is_nested(kind):
        return kind
    parts = [kind.field(place) for place in range(kind.num_fields)]
    plain = [part.with_type(written_out(part.type)) for part in parts]
    if [one.type for one in plain] == [one.type for one in parts]:
        return kind
    for is_kind, make in _NESTED:
        if is_kind(kind):
            return make(kind, plain)
    return kind


_NESTED: tuple[tuple[Any, Callable[[Any, list[pa.Field]], pa.DataType]], ...] = (
    (pa.types.is_struct, lambda _, fields: pa.struct(fields)),
    (pa.types.is_fixed_size_list, lambda kind, fields: pa.list_(fields[0], kind.list_size)),
    (pa.types.is_large_list, lambda _, fields: pa.large_list(fields[0])),
    (pa.types.is_list, lambda _, fields: pa.list_(fields[0])),
    (pa.types.is_list_view, lambda _, fields: pa.list_(fields[0])),
    (pa.types.is_large_list_view, lambda _, fields: pa.large_list(fields[0])),
    (pa.types.is_map, lambda _, fields: pa.map_(*(part.type for part in fields[0].type))),
)


def can_cast(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether some values of a type can become values of another."""
    try:
        pa.nulls(0, found).cast(wanted)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def keeps_all(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether every value of a type is the same value of another, for sure."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if found == wanted or pa.types.is_null(found):
        return True
    if pa.types.is_integer(found) and pa.types.is_integer(wanted):
        signs = pa.types.is_signed_integer(found), pa.types.is_signed_integer(wanted)
        more = wanted.bit_width - found.bit_width
        return more >= 0 if signs[0] == signs[1] else signs[1] and more > 0
    return pa.types.is_string(found) and pa.types.is_large_string(wanted)


@dataclass
class Mapped:
    """Rows whose columns are of the declared types."""

    rows: pa.RecordBatch
    kept: npt.NDArray[np.int64]
    """Which of the rows they are."""
    refused: Mapping[int, str] = field(default_factory=dict[int, str])
    """The other rows: column and value that cannot be cast."""


def map_columns(columns: Mapping[str, pa.Array], count: int, wanted: pa.Schema) -> Mapped:
    """Cast columns; rows of which a value would be lost or changed are told.

    Args:
        columns: What was read, by name; columns that are missing are null.
        count: How many rows.
        wanted: The declared columns.
    """
    arrays: list[pa.Array] = []
    refused: dict[int, str] = {}
    for one in wanted:
        values = columns.get(one.name)
        if values is None:
            arrays.append(pa.nulls(count, one.type))
            continue
        bad = _uncastable(values, one.type)
        for row in bad:
            refused.setdefault(row, _told(one, values[row]))
        if bad:
            mask = np.zeros(count, np.bool_)
            mask[bad] = True
            values = pc.if_else(pa.array(mask), pa.scalar(None, values.type), values)
        arrays.append(values if values.type == one.type else values.cast(one.type))
    made = pa.RecordBatch.from_arrays(arrays, schema=wanted)
    keep = np.ones(count, np.bool_)
    keep[list(refused)] = False
    if refused:
        made = made.filter(pa.array(keep))
    return Mapped(made, np.flatnonzero(keep), refused)


def _uncastable(values: pa.Array, kind: pa.DataType) -> list[int]:
    """The places of values that cannot be cast, found by halving."""
    if values.type == kind:
        return []
    found: list[int] = []
    waiting = [(0, len(values))]
    while waiting:
        start, end = waiting.pop()
        piece = values.slice(start, end - start)
        try:
            found += [start + row for row in changed(piece, piece.cast(kind))]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            if end - start == 1:
                found.append(start)
            else:
                middle = (start + end) // 2
                waiting += [(start, middle), (middle, end)]
    return sorted(found)


def _told(one: pa.Field, value: pa.Scalar) -> str:
    shown = str(shown_value(value))
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return f"column {one.name!r}: {shown!r} is no {one.type}"
