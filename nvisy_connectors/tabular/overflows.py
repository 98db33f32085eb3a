"""Numbers in texts that a conversion to floats would make infinity of, as DuckDB does silently."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.tabular.fractions import SHOWN, is_text

pc: Any = cast("Any", pyarrow.compute)

_NUMBER = re.compile(r"[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]+)?")
_LARGEST = {32: 2**128 - 2**103, 64: 2**1024 - 2**970}
"""For floats of so many bits, the smallest number that is rounded to infinity."""


def overflows(column: pa.Array, values: pa.Array) -> dict[int, str]:
    """Rows whose value has become infinite, and was a number in a text.

    Args:
        column: What is converted; lists and JSON may hold the texts, too.
        values: What became of it.
    """
    widths = set(_floats(values.type))
    if not widths or not _has_texts(column.type):
        return {}
    found: dict[int, str] = {}
    for row in _infinite(values).tolist():
        text = str(column[row].as_py())
        numbers = (one.replace("_", "") for one in _NUMBER.findall(text))
        if any(Decimal(number) >= _LARGEST[min(widths)] for number in numbers):
            found[row] = f"{text[:SHOWN]!r} is too large for {values.type}"
    return found


def _has_texts(kind: pa.DataType) -> bool:
    return is_text(kind) or any(map(_has_texts, _inner(kind)))


def _floats(kind: pa.DataType) -> Iterator[int]:
    if pa.types.is_floating(kind):
        yield kind.bit_width
    for inner in _inner(kind):
        yield from _floats(inner)


def _inner(kind: pa.DataType) -> Iterator[pa.DataType]:
    return (kind.field(place).type for place in range(kind.num_fields))


def _infinite(array: pa.Array) -> npt.NDArray[np.int64]:
    """The rows with infinity, at whatever depth."""
    kind = array.type
    if pa.types.is_floating(kind):
        return np.flatnonzero(pc.fill_null(pc.is_inf(array), False))  # noqa: FBT003 - Arrow's
    if pa.types.is_struct(kind):
        found = [_infinite(part) for part in array.flatten()]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        parents = np.asarray(pc.list_parent_indices(array))
        return np.unique(parents[_infinite(pc.list_flatten(array))]).astype(np.int64)
    if pa.types.is_map(kind):
        offsets = np.asarray(array.offsets)
        return np.unique(np.searchsorted(offsets, _infinite(array.items), "right") - 1)
    return np.zeros(0, np.int64)
