"""A batch as what COPY takes, without the records that PostgreSQL could not hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.sql.postgres.binary_copy import (
    DAY_MICROSECONDS,
    copy_data,
    encode_array,
    encode_column,
    encode_vectors,
    row_numbers,
)
from nvisy_connectors.sql.postgres.json_text import flat, is_list, is_text
from nvisy_connectors.sql.postgres.types import ColumnKind

pc: Any = pyarrow.compute  # its functions are made at run time

# A little within what PostgreSQL takes: 4713 BC to 5874897 AD, and to 294276 AD.
_FIRST_DAY, _LAST_DAY = -2_440_588 + 1, 2_145_031_948
_FIRST_MOMENT, _LAST_MOMENT = _FIRST_DAY * DAY_MICROSECONDS, 106_751_990 * DAY_MICROSECONDS
_LONGEST_VALUE = 2**30 - 1024
"""Bytes of one value; PostgreSQL holds no more than 1 GB."""


@dataclass(frozen=True)
class PlannedColumn:
    """A column of the records and the column of the table that takes it."""

    name: str
    target: str
    kind: ColumnKind
    required: bool = False
    """Whether a null is refused: the column is of the key."""


@dataclass(frozen=True)
class Encoded:
    """What is sent for a batch."""

    data: Sequence[memoryview | bytes]
    rows: Sequence[int]
    """Of each row that is sent, its place in the batch."""
    refused: dict[int, str]
    """Row of the batch -> why PostgreSQL could not hold it."""


def encode(batch: pa.RecordBatch, columns: Sequence[PlannedColumn]) -> Encoded:
    """Encode the columns of a batch, with the number of each row before them."""
    refused: dict[int, str] = {}
    for column in columns:
        for row, reason in _unfit(batch.column(column.name), column).items():
            refused.setdefault(row, reason)
    rows = range(batch.num_rows)
    if refused:
        kept = np.setdiff1d(np.arange(batch.num_rows), np.fromiter(refused, np.int64))
        batch, rows = batch.take(pa.array(kept)), kept.tolist()
    encoded = [_encode(_unpacked(batch.column(c.name)), c.kind) for c in columns]
    return Encoded(copy_data([row_numbers(batch.num_rows), *encoded]), rows, refused)


def _encode(column: pa.Array, kind: ColumnKind) -> pa.Array:
    if kind.kind == "vector":
        return encode_vectors(column, as_array=False)
    if kind.array and kind.dimension and not column.flatten().null_count:
        return encode_vectors(column, as_array=True)
    if kind.array:
        return encode_array(column, kind.kind)
    return encode_column(column, kind.kind)


def _unpacked(column: pa.Array) -> pa.Array:
    if isinstance(column, pa.ExtensionArray):
        return _unpacked(column.storage)
    if pa.types.is_dictionary(column.type):
        return _unpacked(column.dictionary_decode())
    # Few of Arrow's functions take a view.
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if pa.types.is_binary_view(column.type) else column


def _unfit(column: pa.Array, planned: PlannedColumn) -> dict[int, str]:
    """Why some values cannot be held, by row."""
    reasons: dict[int, str] = {}
    values = _unpacked(column)
    if planned.required and values.null_count:
        _add(reasons, values.is_null(), f"column {planned.name!r} of the key is null")
    kind = planned.kind
    if kind.kind == "vector":
        inner = _per_list(values, pc.invert(pc.is_finite(values.flatten())))
        reason = f"column {planned.name!r} holds a vector with a null, NaN or infinity"
        return reasons | _rows(inner, reason)
    if kind.array:
        elements, _ = flat(values)
        elements = _unpacked(elements)
        for mask, reason in _unfit_scalars(elements, planned):
            reasons |= _rows(_per_list(values, mask), reason)
        return reasons
    for mask, reason in _unfit_scalars(values, planned):
        _add(reasons, mask, reason)
    return reasons


def _unfit_scalars(values: pa.Array, planned: PlannedColumn) -> list[tuple[pa.Array, str]]:
    """Masks of what cannot be held, each with the reason."""
    name, kind = planned.name, values.type
    if is_text(kind):
        nul = pc.match_substring(values, "\0")
        return [(nul, f"column {name!r} holds a NUL character"), *_too_large(values, name)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _too_large(values, name)
    if pa.types.is_date(kind):
        days = values.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.int64())
        return [
            (_outside(days, _FIRST_DAY, _LAST_DAY), f"column {name!r} holds a date out of range")
        ]
    if pa.types.is_timestamp(kind) and kind.unit in {"s", "ms", "us"}:
        per_day = {"s": 86_400, "ms": 86_400_000, "us": DAY_MICROSECONDS}[kind.unit]
        low, high = _FIRST_DAY * per_day, (_LAST_MOMENT // DAY_MICROSECONDS) * per_day
        mask = _outside(values.cast(pa.int64()), low, high)
        return [(mask, f"column {name!r} holds a time out of range")]
    return []


def _too_large(values: pa.Array, name: str) -> list[tuple[pa.Array, str]]:
    if values.nbytes < _LONGEST_VALUE:
        return []
    mask = pc.greater(pc.binary_length(values), _LONGEST_VALUE)
    return [(mask, f"column {name!r} holds a value of more than 1 GB")]


def _outside(values: pa.Array, low: int, high: int) -> pa.Array:
    return pc.or_(pc.less(values, low), pc.greater(values, high))


def _add(reasons: dict[int, str], mask: pa.Array, reason: str) -> None:
    if pc.any(mask).as_py():
        for row in np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)):  # noqa: FBT003
            reasons.setdefault(int(row), reason)


def _per_list(lists: pa.Array, mask: pa.Array) -> set[int]:
    """Rows of lists that hold an element of the mask, or, of a vector, a null."""
    found = mask.fill_null(pa.types.is_fixed_size_list(lists.type))
    if not pc.any(found).as_py() or not is_list(lists.type):
        return set()
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(lists)), lengths)
    return {int(row) for row in owners[found.to_numpy(zero_copy_only=False)]}


def _rows(rows: set[int], reason: str) -> dict[int, str]:
    return dict.fromkeys(sorted(rows), reason)
