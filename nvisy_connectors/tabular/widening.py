"""The type that holds all values of two types, if there is one.

- Integers: the smallest one that holds both; of `uint64` and one with a sign `decimal128(20, 0)`.
- An integer and a decimal: a decimal with room for both, of at most 38 digits.
- An integer and a float: a float that holds every such integer, so none for 64 bits.
- Texts, bytes and lists: the large kind if one of them is large. Texts that are told by number
  (dictionaries) or by reference (views) become plain ones.
- Times: the finer unit, but not nanoseconds with another unit, which reach only from 1677 to 2262.
  Moments in different zones become UTC.
- Lists, maps and structs: of what their parts have in common; a field that only one struct has may
  be null.
- null and anything: the other one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

MOST_DIGITS = 38
_PLAIN = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
"""Decimal digits of an integer with a sign, by its bits."""
_FLOATS = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}
_EXACT_BITS = {16: 8, 32: 16, 64: 32}
"""The widest integer of which a float holds every value, by the bits of the float."""
_UNITS = ("s", "ms", "us", "ns")


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that both can be cast to without losing anything; `None` if there is none.

    It is none whose texts are told by number or reference, even if both are equal.
    """
    one, other = plain_type(one), plain_type(other)
    if one.equals(other):
        return one
    if kinds.is_null(one) or kinds.is_null(other):
        return other if kinds.is_null(one) else one
    for widen in _WIDENINGS:
        found = widen(one, other)
        if found is not None:
            return found
    return None


def whole_decimal(kind: pa.DataType) -> pa.DataType | None:
    """The decimal without places behind the point that holds a decimal of a scale below zero.

    DuckDB knows no such scales, which count thousands, say. `None` if there were too many digits.
    """
    digits = kind.precision - kind.scale
    return pa.decimal128(digits, 0) if digits <= MOST_DIGITS else None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries and views, at whatever depth."""
    if kinds.is_dictionary(kind):
        return plain_type(kind.value_type)
    if kinds.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if kinds.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        item = kind.value_field.with_type(plain_type(kind.value_type))
        size = kind.list_size if kinds.is_fixed_size_list(kind) else -1
        return pa.large_list(item) if kinds.is_large_list(kind) else pa.list_(item, size)
    return _PLAIN.get(kind, kind)


def fit(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values as a type that holds them.

    Raises:
        pa.ArrowInvalid: A value does not fit.
    """
    return array if array.type.equals(kind) else array.cast(kind)


def _numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if kinds.is_integer(one) and kinds.is_integer(other):
        return _integers(one, other)
    if kinds.is_floating(one) and kinds.is_floating(other):
        return _FLOATS[max(one.bit_width, other.bit_width)]
    if kinds.is_floating(one):
        one, other = other, one
    if kinds.is_integer(one) and kinds.is_floating(other):
        fits = [bits for bits, exact in _EXACT_BITS.items() if exact >= one.bit_width]
        return _FLOATS[max(fits[0], other.bit_width)] if fits else None
    return None


def _integers(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if kinds.is_signed_integer(one) == kinds.is_signed_integer(other):
        return one if one.bit_width >= other.bit_width else other
    signed, unsigned = (one, other) if kinds.is_signed_integer(one) else (other, one)
    bits = max(signed.bit_width, 2 * unsigned.bit_width)
    of_bits = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
    return of_bits.get(bits, pa.decimal128(20, 0))


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    sizes = [_decimal_size(one), _decimal_size(other)]
    if not (kinds.is_decimal(one) or kinds.is_decimal(other)) or None in sizes:
        return None
    whole = max(size[0] for size in sizes if size)
    scale = max(size[1] for size in sizes if size)
    return pa.decimal128(whole + scale, scale) if whole + scale <= MOST_DIGITS else None


def _decimal_size(kind: pa.DataType) -> tuple[int, int] | None:
    """Digits before and behind the point."""
    if kinds.is_decimal(kind):
        return kind.precision - kind.scale, max(kind.scale, 0)
    if kinds.is_integer(kind):
        more = kinds.is_unsigned_integer(kind) and kind.bit_width == 64  # noqa: PLR2004 - bits
        return _DIGITS[kind.bit_width] + more, 0
    return None


def _texts(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    for is_kind, is_large, small, large in (
        (_is_text, kinds.is_large_string, pa.string(), pa.large_string()),
        (_is_bytes, kinds.is_large_binary, pa.binary(), pa.large_binary()),
    ):
        if is_kind(one) and is_kind(other):
            return large if is_large(one) or is_large(other) else small
    return None


def _is_text(kind: pa.DataType) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (
            kinds.is_binary,
            kinds.is_large_binary,
            kinds.is_binary_view,
            kinds.is_fixed_size_binary,
        )
    )


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if kinds.is_date(one) and kinds.is_date(other):
        return pa.date64()
    if kinds.is_time(one) and kinds.is_time(other):
        unit = _finer(one, other)
        return pa.time64(unit) if unit in {"us", "ns"} else pa.time32(unit)
    if kinds.is_timestamp(one) and kinds.is_timestamp(other):
        unit = _finer(one, other)
        if (one.tz is None) != (other.tz is None) or (unit == "ns" and one.unit != other.unit):
            return None
        return pa.timestamp(unit, one.tz if one.tz == other.tz else "UTC")
    if kinds.is_duration(one) and kinds.is_duration(other):
        unit = _finer(one, other)
        return None if unit == "ns" else pa.duration(unit)
    return None


def _finer(one: Any, other: Any) -> Any:  # noqa: ANN401 - types that have a unit
    return max(one.unit, other.unit, key=_UNITS.index)


def _lists(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = (one, other)
    if not all(kinds.is_list(k) or kinds.is_large_list(k) or _is_fixed(k) for k in both):
        return None
    item = _common_field(one.value_field, other.value_field)
    if item is None:
        return None
    if _is_fixed(one) and _is_fixed(other):
        # Vectors of different models are not to be mixed.
        return pa.list_(item, one.list_size) if one.list_size == other.list_size else None
    return pa.large_list(item) if any(map(kinds.is_large_list, both)) else pa.list_(item)


def _is_fixed(kind: pa.DataType) -> bool:
    return kinds.is_fixed_size_list(kind)


def _maps(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not (kinds.is_map(one) and kinds.is_map(other)):
        return None
    key = common_type(one.key_type, other.key_type)
    item = common_type(one.item_type, other.item_type)
    return None if key is None or item is None else pa.map_(key, item)


def _structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not (kinds.is_struct(one) and kinds.is_struct(other)):
        return None
    names = [field.name for field in one]
    more = [field.name for field in other if field.name not in names]
    if len({*names, *more}) < len(names) + len(more):
        return None  # a name that is there twice says nothing
    found: list[pa.Field] = []
    for name in [*names, *more]:
        fields = [kind.field(name) for kind in (one, other) if kind.get_field_index(name) >= 0]
        field = fields[0] if len(fields) == 1 else _common_field(*fields)
        if field is None:
            return None
        found.append(field if len(fields) > 1 else _nullable(field))
    return pa.struct(found)


def _nullable(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type)).with_nullable(nullable=True)


def _common_field(one: pa.Field, other: pa.Field) -> pa.Field | None:
    kind = common_type(one.type, other.type)
    nullable = one.nullable or other.nullable
    return None if kind is None else pa.field(one.name, kind, nullable=nullable)


_WIDENINGS: Sequence[Callable[[pa.DataType, pa.DataType], pa.DataType | None]] = (
    _numbers,
    _decimals,
    _texts,
    _times,
    _lists,
    _maps,
    _structs,
)
