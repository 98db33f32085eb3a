"""What pydantic demands of a field, as checks of whole Arrow columns.

A check marks *suspects*: it finds every value that pydantic would refuse, and may mark one that
pydantic accepts. The caller asks pydantic about the suspects alone, so what a column may hold is
defined in one place, the model, and costs nothing per row when all is well.
"""

import re
from collections.abc import Callable
from typing import Any, cast

import annotated_types as at
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
from pydantic_core import from_json

from nvisy_dagster.sdk.arrow_schema import Shape
from nvisy_dagster.sdk.primitives.types import Arrow, ArrowVector

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

Mark = Callable[[npt.NDArray[np.int64]], None]
"""Takes the indexes of suspects."""

# Range of Python's datetime in microseconds; an Arrow timestamp can be far outside of it.
_FIRST_MOMENT = -62_135_596_800_000_000
_LAST_MOMENT = 253_402_300_799_999_999

# Where RE2, which Arrow uses, and Rust's regex, which pydantic uses, may differ.
_DIALECT = re.compile(r"\\[bBdDsSwWpP]|\(\?|[^\x00-\x7f]")

_COMPARISONS: dict[type, tuple[str, Callable[[Any, Any], pa.Array]]] = {
    at.Ge: ("ge", pc.less),
    at.Gt: ("gt", pc.less_equal),
    at.Le: ("le", pc.greater),
    at.Lt: ("lt", pc.greater_equal),
}
_NEUTRAL = {"strict", "allow_inf_nan"}


def mark_suspects(array: pa.Array, shape: Shape, mark: Mark) -> None:
    """Mark every value of a column that pydantic would refuse; the type has been checked."""
    if array.null_count:
        if not shape.nullable:
            mark(_where(array.is_null()))
        valid = _where(array.is_valid())
        array, mark = array.drop_null(), _through(mark, valid)
    if not len(array):
        return
    if shape.kind == "vector":
        _vectors(array, mark)
    elif shape.kind == "list":
        _list(array, shape, mark)
    elif shape.kind == "struct":
        for child, child_shape in zip(array.flatten(), shape.fields.values(), strict=True):
            mark_suspects(child, child_shape, mark)
    elif shape.kind == "scalar":
        _scalar(array, shape, mark)
    else:
        _json(array, mark, want_object=shape.kind == "json_object")
    _constraints(array, shape, mark)


def _where(mask: pa.Array) -> npt.NDArray[np.int64]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def _through(mark: Mark, positions: npt.NDArray[np.int64]) -> Mark:
    return lambda indexes: mark(positions[indexes])


def _vectors(array: pa.Array, mark: Mark) -> None:
    values = array.flatten()
    if values.null_count:
        mark(_where(values.is_null()) // array.type.list_size)
    numbers = values.to_numpy(zero_copy_only=False)
    # One pass without a mask says that all is well: infinities and NaN survive min and max.
    if np.isfinite(numbers.min()) and np.isfinite(numbers.max()):
        return
    mark(np.flatnonzero(~np.isfinite(numbers)) // array.type.list_size)


def _list(array: pa.Array, shape: Shape, mark: Mark) -> None:
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    if shape.item is not None and lengths.any():
        parents = np.repeat(np.arange(len(array), dtype=np.int64), lengths)
        mark_suspects(array.flatten(), shape.item, _through(mark, parents))


def _scalar(array: pa.Array, shape: Shape, mark: Mark) -> None:
    if shape.choices is not None:
        known = pa.array(shape.choices, array.type)
        mark(_where(pc.invert(pc.is_in(array, value_set=known))))
    if pa.types.is_floating(array.type):
        finite = pc.is_finite(array)
        if finite.false_count:
            mark(_where(pc.invert(finite)))
    if pa.types.is_timestamp(array.type):
        micros = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())
        _compare(micros, pc.less, _FIRST_MOMENT, mark)
        _compare(micros, pc.greater, _LAST_MOMENT, mark)


def _json(array: pa.Array, mark: Mark, *, want_object: bool) -> None:
    suspects: list[int] = []
    for index, text in enumerate(array.to_pylist()):
        try:
            value = from_json(text, allow_inf_nan=False)
        except ValueError:
            suspects.append(index)
        else:
            if want_object and not isinstance(value, dict):
                suspects.append(index)
    if suspects:
        mark(np.array(suspects, np.int64))


def _constraints(array: pa.Array, shape: Shape, mark: Mark) -> None:
    stored = any(isinstance(item, Arrow | ArrowVector) for item in shape.constraints)
    for item in shape.constraints:
        comparison = _COMPARISONS.get(type(item))
        if comparison is not None:
            name, violates = comparison
            _compare(array, violates, getattr(item, name), mark)
        elif isinstance(item, at.MinLen):
            _compare(_length(array), pc.less, item.min_length, mark)
        elif isinstance(item, at.MaxLen):
            _compare(_length(array), pc.greater, item.max_length, mark)
        elif isinstance(item, at.BaseMetadata) and not vars(item).keys() - {"pattern", *_NEUTRAL}:
            _pattern(array, vars(item).get("pattern"), mark)
        elif isinstance(item, Arrow | ArrowVector):
            continue
        elif not stored:
            mark(np.arange(len(array)))


def _compare(
    array: pa.Array, violates: Callable[[Any, Any], pa.Array], limit: object, mark: Mark
) -> None:
    if isinstance(limit, int) and pa.types.is_integer(array.type):
        bits = array.type.bit_width
        if limit <= -(1 << (bits - 1)) or limit >= (1 << (bits - 1)) - 1:
            return
    mask = violates(array, pa.scalar(limit, array.type))
    if mask.true_count:
        mark(_where(mask))


def _length(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return pc.utf8_length(array)
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return pc.binary_length(array)
    return pc.list_value_length(array)


def _pattern(array: pa.Array, pattern: object, mark: Mark) -> None:
    if pattern is None:
        return
    text = pattern if isinstance(pattern, str) else ""
    if not text or _DIALECT.search(text):
        mark(np.arange(len(array)))
        return
    matches = pc.match_substring_regex(array, text)
    if matches.false_count:
        mark(_where(pc.invert(matches)))
