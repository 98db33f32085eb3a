"""Numbers that are too large for a column of floats.

Arrow's readers of CSV and of JSON lines make infinity of them, and so would computing with them.
Infinity that was written as such stays what it is.
"""

from decimal import Decimal
from math import inf
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

pc: Any = cast("Any", pyarrow.compute)

Indexes = npt.NDArray[np.int64]

LARGEST = {16: 2**16 - 2**4, 32: 2**128 - 2**103, 64: 2**1024 - 2**970}
"""For floats of so many bits, the smallest number that is rounded to infinity."""


class Number(float):
    """A number that is not exactly what was written, which is kept."""

    text: str


def as_number(text: str) -> Number:
    """A number with its text."""
    number = Number(text)
    number.text = text
    return number


def is_too_large(value: float, bits: int) -> bool:
    """Whether a number would be infinity as a float of so many bits, and is none now."""
    bound = LARGEST[bits]
    if type(value) is float:
        return bound <= abs(value) < inf
    if abs(value) < bound:
        return False
    return not isinstance(value, Number) or abs(Decimal(value.text)) >= bound


def infinite_rows(table: pa.Table) -> Indexes:
    """The rows with infinity in some value, or in what consists of several."""
    columns = [column for column in table.columns if _holds_floats(column.type)]
    found = [_infinite(column.combine_chunks()) for column in columns]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))


def _holds_floats(kind: pa.DataType) -> bool:
    inner = (kind.field(place).type for place in range(kind.num_fields))
    return pa.types.is_floating(kind) or any(map(_holds_floats, inner))


def _infinite(array: pa.Array) -> Indexes:
    kind = array.type
    if pa.types.is_floating(kind):
        return np.flatnonzero(pc.fill_null(pc.is_inf(array), False))  # noqa: FBT003 - Arrow's
    if pa.types.is_struct(kind):
        inner = [_infinite(array.field(place)) for place in range(kind.num_fields)]
        return np.concatenate([np.zeros(0, np.int64), *inner])
    if pa.types.is_list(kind):
        offsets = np.asarray(array.offsets)
        return np.searchsorted(offsets, _infinite(array.values), "right") - 1
    return np.zeros(0, np.int64)
