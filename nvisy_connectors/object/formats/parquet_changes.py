"""Values that Arrow's casts change without a word, though they refuse what they can."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.types as kinds

# Arrow makes its kernels at import; no type checker sees them.
pc: Any = cast("Any", pyarrow.compute)

Mask = npt.NDArray[np.bool_]

_DIGIT = "[0-9]"
_FIRST_DAY = pa.scalar(0, pa.int32()).cast(pa.date32())


def changed(values: pa.Array, made: pa.Array) -> Sequence[int]:
    """The places of values of which a cast made others, at whatever depth."""
    return np.flatnonzero(_changed(values, made)).tolist()


def _changed(values: pa.Array, made: pa.Array) -> Mask:
    before, after = values.type, made.type
    if kinds.is_struct(before) and kinds.is_struct(after):
        parts = dict(zip([field.name for field in before], values.flatten(), strict=True))
        made_parts = zip([field.name for field in after], made.flatten(), strict=True)
        known = [(parts[name], part) for name, part in made_parts if name in parts]
        masks = [_changed(one, other) for one, other in known]
        return np.logical_or.reduce([np.zeros(len(values), np.bool_), *masks])
    if _is_list(before) and _is_list(after):
        mask = np.zeros(len(values), np.bool_)
        parents = np.asarray(pc.list_parent_indices(values))
        mask[parents[_changed(pc.list_flatten(values), pc.list_flatten(made))]] = True
        return mask
    for is_before, is_after, tell in _TELLS:
        if is_before(before) and is_after(after):
            return np.asarray(pc.fill_null(tell(values, made), False))  # noqa: FBT003 - Arrow's
    return np.zeros(len(values), np.bool_)


def _differ(values: pa.Array, made: pa.Array) -> pa.Array:
    return pc.not_equal(made.cast(values.type), values)


def _overflow(values: pa.Array, made: pa.Array) -> pa.Array:
    return pc.and_(pc.is_inf(made), pc.is_finite(values))  # else the nearest one is good enough


def _overflow_of_text(values: pa.Array, made: pa.Array) -> pa.Array:
    return pc.and_(pc.is_inf(made), pc.match_substring_regex(values, _DIGIT))


def _lose_time(values: pa.Array, made: pa.Array) -> pa.Array:
    there = _there(values)
    return pc.not_equal(made.cast(there.type), there)


def _lose_day(values: pa.Array, made: pa.Array) -> pa.Array:  # noqa: ARG001 - one of several
    return pc.not_equal(_there(values).cast(pa.date32()), _FIRST_DAY)


def _there(values: pa.Array) -> pa.Array:
    """What clocks and calendars showed."""
    return values if values.type.tz is None else pc.local_timestamp(values)


def _is_list(kind: pa.DataType) -> bool:
    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return kinds.is_integer(kind) or kinds.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind)


Is = Callable[[pa.DataType], bool]
_TELLS: Sequence[tuple[Is, Is, Callable[[pa.Array, pa.Array], pa.Array]]] = (
    (kinds.is_floating, kinds.is_decimal, _differ),
    (kinds.is_floating, kinds.is_floating, _overflow),
    (_is_text, kinds.is_floating, _overflow_of_text),
    (_is_number, kinds.is_boolean, _differ),
    (kinds.is_timestamp, kinds.is_date, _lose_time),
    (kinds.is_timestamp, kinds.is_time, _lose_day),
)
