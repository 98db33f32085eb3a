"""Arrow columns as JSON texts, a column at a time."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk.json_values import encode_scalar

pc: Any = pyarrow.compute  # its functions are made at run time

TEXT = pa.large_string()
_SPECIAL = r'[\x00-\x1f"\\]'
_NULL = pa.scalar("null", TEXT)
_NOTHING = pa.scalar("", TEXT)


def json_texts(column: pa.Array) -> pa.Array:
    """One JSON text per value; a null stays a null.

    Numbers that JSON has no word for (NaN, infinity) are written as Arrow does, which no reader of
    JSON takes.
    """
    return pc.if_else(column.is_valid(), _values(column), pa.scalar(None, TEXT))


def _values(column: pa.Array) -> pa.Array:  # noqa: PLR0911 - one per kind of type
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _values(column.storage)
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if pa.types.is_null(kind):
        return pa.nulls(len(column), TEXT).fill_null("null")
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind) or _is_number(kind):
        return column.cast(TEXT).fill_null("null")
    if is_text(kind):
        return _strings(column.cast(TEXT)).fill_null("null")
    if pa.types.is_struct(kind):
        return _objects(column)
    if is_list(kind):
        return _lists(column)
    return _one_by_one(column)


def is_text(kind: pa.DataType) -> bool:
    """Whether it is a type of text."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a type of list, but no map."""
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def flat(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The values of all lists, and the length of each list, 0 for a null."""
    lengths = pc.list_value_length(column).fill_null(0)
    return column.flatten(), lengths.cast(pa.int64())


def regroup(values: pa.Array, lengths: pa.Array) -> pa.Array:
    """Lists of these lengths, one behind the other."""
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    return pa.LargeListArray.from_arrays(offsets, values)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _strings(column: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(column, _SPECIAL).fill_null(False)  # noqa: FBT003 - Arrow's
    quoted = _join(['"', column, '"'], len(column))
    if not pc.any(special).as_py():
        return quoted
    hard = column.filter(special).to_pylist()
    return pc.replace_with_mask(
        quoted, special, pa.array([json.dumps(text, ensure_ascii=False) for text in hard], TEXT)
    )


def _objects(column: pa.Array) -> pa.Array:
    parts: list[Any] = []
    for place in range(column.type.num_fields):
        name = json.dumps(column.type.field(place).name, ensure_ascii=False)
        parts += ["{" if place == 0 else ",", f"{name}:", _values(column.field(place))]
    texts = _join([*(parts or ["{"]), "}"], len(column))
    return pc.if_else(column.is_valid(), texts, _NULL)


def _lists(column: pa.Array) -> pa.Array:
    values, lengths = flat(column)
    inner = pc.binary_join(regroup(_values(values), lengths), pa.scalar(",", TEXT))
    return pc.if_else(column.is_valid(), _join(["[", inner, "]"], len(column)), _NULL)


def _join(parts: Sequence[Any], count: int) -> pa.Array:
    columns = [pa.scalar(part, TEXT) if isinstance(part, str) else part for part in parts]
    if not any(isinstance(part, pa.Array) for part in columns):
        return pa.repeat(pa.scalar("".join(map(str, parts)), TEXT), count)
    return pc.binary_join_element_wise(*columns, _NOTHING)


def _one_by_one(column: pa.Array) -> pa.Array:
    dumps: Callable[[Any], str] = json.JSONEncoder(
        ensure_ascii=False, separators=(",", ":"), default=encode_scalar
    ).encode
    as_pairs = pa.types.is_map(column.type)
    values = column.to_pylist()
    return pa.array(
        [dumps(dict(value) if as_pairs and value is not None else value) for value in values], TEXT
    )
