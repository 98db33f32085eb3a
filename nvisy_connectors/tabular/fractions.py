"""Fractions that a conversion to integers would cut off, as SQL does without a word."""

from collections.abc import Collection, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

SHOWN = 80
"""Longest value that a reason shows."""


def fractions(column: pa.Array, after: pa.DataType) -> dict[int, str]:
    """Rows whose value would lose its fraction, which SQL rounds without a word."""
    if not pa.types.is_integer(after):
        return {}
    kind = column.type
    if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and kind.scale > 0):
        values = column.cast(pa.float32()) if pa.types.is_float16(kind) else column
        rows = _true(pc.not_equal(pc.trunc(values), values))
        finite = [(row, column[row].as_py()) for row in rows]
        return {row: f"{value} is no whole number" for row, value in finite}
    if not is_text(kind):
        return {}
    texts = column.cast(pa.string())
    if not _holds(texts, b".eE"):
        return {}
    rows = _true(pc.match_substring_regex(texts, "[.eE]"))
    cut = ((row, texts[row].as_py()) for row in rows)
    return {row: f"{text[:SHOWN]!r} is no whole number" for row, text in cut if _has_fraction(text)}


def _holds(texts: pa.Array, marks: bytes) -> bool:
    """Whether any of these characters is in the texts; cheaper than a regex."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return False
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, 4 * texts.offset)
    text = data.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes()
    return any(mark in text for mark in marks)


def _has_fraction(text: str) -> bool:
    try:
        number = Decimal(text.strip().replace("_", ""))
    except InvalidOperation:
        return False
    return number.is_finite() and number != number.to_integral_value()


def without(values: pa.Array, rows: Collection[int]) -> pa.Array:
    """The values, NULL on some rows."""
    if not rows:
        return values
    mask = np.zeros(len(values), np.bool_)
    mask[list(rows)] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, values.type), values)


def _true(mask: pa.Array) -> Sequence[int]:
    filled = mask.fill_null(fill_value=False).to_numpy(zero_copy_only=False)
    return cast("list[int]", filled.nonzero()[0].tolist())


def is_text(kind: pa.DataType) -> bool:
    """Whether its values are texts."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)
