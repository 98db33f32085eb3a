"""Texts of a CSV column -> values of its type, and which type that is."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pa_csv

from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.decimals import check_decimals

pc: Any = cast("Any", pyarrow.compute)
csv: Any = cast("Any", pa_csv)

Mask = npt.NDArray[np.bool_]

LEADING_ZERO = r"^[ \t]*[+-]?0[0-9xX]"
"""What a number would lose; with an `x` it would be another one."""
TOLERANCE = 100
"""One value of so many may be none of the type that the others tell: it is a bad one then."""

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
_DIGIT = "[0-9]"
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^-?(inf|Inf|nan|NaN)$"
_GUESSES: list[tuple[pa.DataType, str]] = [
    (pa.bool_(), r"^(true|True|TRUE|false|False|FALSE)$"),
    (pa.int64(), r"^-?(0|[1-9][0-9]{0,18})$"),
    (pa.float64(), _NUMBER),
    (pa.date32(), rf"^{_DATE}$"),
    (pa.timestamp("us"), rf"^{_DATE}({_CLOCK}(\.[0-9]{{1,6}})?)?)?$"),
    (pa.timestamp("us", "UTC"), rf"^{_DATE}{_CLOCK}(\.[0-9]{{1,6}})?)?{_ZONE}$"),
    (pa.timestamp("ns"), rf"^{_DATE}({_CLOCK}(\.[0-9]{{1,9}})?)?)?$"),
    (pa.timestamp("ns", "UTC"), rf"^{_DATE}{_CLOCK}(\.[0-9]{{1,9}})?)?{_ZONE}$"),
]
LONG = r"^[ \t]*[+-]?[0-9]{16,}"
"""What a float would not hold exactly."""
LEAST_LONG = 1e15
"""The least of such numbers."""

_PLAIN = {
    pa.int64(): r"^-?[0-9]{1,18}$",
    pa.float64(): r"^-?[0-9]{1,15}(\.[0-9]{1,15})?$",
    pa.date32(): rf"^{_DATE}$",
}
"""Texts that a cast makes the same of as the reader of CSV files."""


def parse_types(columns: Mapping[str, str]) -> pa.Schema:
    """Declared columns.

    Raises:
        ValueError: A type cannot be read, or no field of a CSV file has it; names the column.
    """
    found = parse_columns(columns, {"time": pa.time64("us")})
    for one in found:
        if pa.types.is_nested(one.type):
            raise ValueError(
                f"column {one.name!r}: a field of a CSV file holds no {one.type}; declare `string`"
            )
    return found


def is_text(kind: pa.DataType) -> bool:
    """Whether any text is a value of the type."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def guess(values: pa.Array, null_values: Sequence[str], decimal_point: str) -> pa.DataType:
    """The type of a column, as a sample tells.

    Args:
        values: Texts, and nulls.
        null_values: Texts that stand for nothing.
        decimal_point: What stands before the fraction of a number.
    """
    values = values.drop_null()
    values = values.filter(pc.invert(pc.is_in(values, pa.array(null_values, pa.string()))))
    count = len(values)
    if not count:
        return pa.string()
    numeric = not pc.any(pc.match_substring_regex(values, LEADING_ZERO)).as_py()
    numbers = values if decimal_point == "." else pc.replace_substring(values, ",", ".")
    for kind, pattern in _GUESSES:
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if is_number and not numeric:
            continue
        texts = numbers if pa.types.is_floating(kind) else values
        alike = pc.match_substring_regex(texts, pattern)
        if (count - pc.sum(alike).as_py()) * TOLERANCE > count:
            continue
        fitting = values.filter(alike)
        if pa.types.is_floating(kind) and not _is_for_floats(numbers.filter(alike)):
            continue
        _, good = convert(fitting, kind, decimal_point)
        if (count - int(good.sum())) * TOLERANCE <= count:
            return kind
    return pa.string()


def _is_for_floats(values: pa.Array) -> bool:
    any_digit = pc.any(pc.match_substring_regex(values, _DIGIT)).as_py()
    return any_digit and not pc.any(pc.match_substring_regex(values, LONG)).as_py()


def convert(values: pa.Array, kind: pa.DataType, decimal_point: str = ".") -> tuple[pa.Array, Mask]:
    """Texts as values of a type, null where they are none, and which of them are some.

    The reader of CSV files has the last word: what becomes of a text must not depend on others.
    """
    given = np.asarray(values.is_valid())
    if is_text(kind):
        return values.cast(kind), np.ones(len(values), np.bool_)
    plain = _plain(values, kind, decimal_point)
    doubtful = np.flatnonzero(given & ~plain)
    try:
        found = pc.if_else(pa.array(plain), values, pa.scalar(None, values.type)).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        doubtful, found = np.flatnonzero(given), pa.nulls(len(values), kind)
    if not len(doubtful):
        return found, np.ones(len(values), np.bool_)
    asked = values.take(pa.array(doubtful))
    others, fits = _read(asked, kind, decimal_point)
    if pa.types.is_floating(kind):
        others, fits = _but_too_large(asked, others, fits)
    mask = np.zeros(len(values), np.bool_)
    mask[doubtful] = True
    good = ~mask
    good[doubtful] = fits
    return pc.replace_with_mask(found, pa.array(mask), others), good


def _but_too_large(texts: pa.Array, found: pa.Array, good: Mask) -> tuple[pa.Array, Mask]:
    # Infinity that was written as such has no digits.
    large = pc.and_(pc.is_inf(found), pc.match_substring_regex(texts, _DIGIT))
    large = pc.fill_null(large, False)  # noqa: FBT003 - Arrow's
    return pc.if_else(large, pa.scalar(None, found.type), found), good & ~np.asarray(large)


def _plain(values: pa.Array, kind: pa.DataType, decimal_point: str) -> Mask:
    pattern = _PLAIN.get(kind)
    if pattern is None or (decimal_point != "." and pa.types.is_floating(kind)):
        return np.zeros(len(values), np.bool_)
    return np.asarray(pc.fill_null(pc.match_substring_regex(values, pattern), False))  # noqa: FBT003


def _read(values: pa.Array, kind: pa.DataType, decimal_point: str) -> tuple[pa.Array, Mask]:
    """Convert texts, none of them null; what fails is searched for by halving."""
    found = _read_all(values, kind, decimal_point)
    if found is not None:
        return found, np.ones(len(values), np.bool_)
    if len(values) == 1:
        return pa.nulls(1, kind), np.zeros(1, np.bool_)
    half = len(values) // 2
    parts = [
        _read(part, kind, decimal_point) for part in (values.slice(0, half), values.slice(half))
    ]
    found = pa.concat_arrays([part for part, _ in parts])
    return found, np.concatenate([good for _, good in parts])


def _read_all(values: pa.Array, kind: pa.DataType, decimal_point: str) -> pa.Array | None:
    bare = pc.replace_substring(values, '"', '""')
    lines = pc.binary_join_element_wise('"', bare, '"\n', "")
    data = lines.buffers()[2]
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :][: len(lines) + 1]
    data = data.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=data.size + 1, column_names=["value"]
            ),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={"value": kind},
                quoted_strings_can_be_null=False,
                decimal_point=decimal_point,
            ),
        )
        check_decimals(table)
    except pa.ArrowInvalid:
        return None
    column = table.column(0)
    return column.combine_chunks() if table.num_rows == len(values) else None
