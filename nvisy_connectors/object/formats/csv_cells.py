"""Values as the fields of a CSV file, many at a time."""

import base64
import json
import re
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.object.formats.csv_dialect import DELIMITERS
from nvisy_connectors.object.formats.csv_options import CsvWriteOptions
from nvisy_connectors.object.formats.readable import NO_NUMBER, json_values, plain, readable_column

pc: Any = cast("Any", pyarrow.compute)

_TEXT = pa.large_string()
_EMPTY = pa.scalar("", _TEXT)
_FORMULA = "^[=+@\t\r-]"
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_WHOLE = r"^(-?[0-9]+)$"
_NOUGHTS = r"^(-?[0-9]+\.[0-9]+?)0+$"
_NOTHING = "^0E-[0-9]+$"
_PLACES = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def is_nested(kind: pa.DataType) -> bool:
    """Whether a value is no single field."""
    return pa.types.is_nested(kind)


def cells(name: str, array: pa.Array, options: CsvWriteOptions) -> pa.Array:
    """Fields of one column as they stand in a file; null for a null."""
    array = readable_column(name, array)
    is_text = _is_text(_value_type(array.type))
    found = _texts(array)
    if is_text and options.neutralize_formulas:
        found = neutral(found)
    return quoted(found, options)


def quoted(found: pa.Array, options: CsvWriteOptions) -> pa.Array:
    """Texts, in quotes where they need them."""
    bare = pc.replace_substring(found, '"', '""')
    mark = pa.scalar('"', _TEXT)
    marked = pc.binary_join_element_wise(mark, bare, mark, _EMPTY)
    if options.quoting == "all":
        return marked
    needs = pc.match_substring_regex(found, _special(options.delimiter))
    if options.null_value:
        needs = pc.or_(needs, pc.equal(found, pa.scalar(options.null_value, _TEXT)))
    return pc.if_else(needs, marked, found)


def neutral(found: pa.Array) -> pa.Array:
    """Texts that no spreadsheet takes for a formula; plain numbers are none."""
    is_formula = pc.and_not(
        pc.match_substring_regex(found, _FORMULA), pc.match_substring_regex(found, _NUMBER)
    )
    marked = pc.binary_join_element_wise(pa.scalar("'", _TEXT), found, _EMPTY)
    return pc.if_else(is_formula, marked, found)


def json_texts(array: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Nested values as JSON, and why it cannot express some, by place."""
    encode = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain
    ).encode
    texts: list[str | None] = []
    values, bad = json_values(array)
    for place, value in enumerate(values):
        try:
            texts.append(None if value is None else encode(value))
        except ValueError:
            texts.append(None)
            bad[place] = NO_NUMBER
    return pa.array(texts, _TEXT), bad


def _special(delimiter: str) -> str:
    r"""What must stand in quotes: nothing at all, marks, and blanks at an end.

    What readers may take for a delimiter, a quote or a byte order mark of the file counts, too.
    """
    mark = delimiter if delimiter.isalnum() else f"\\{delimiter}"
    others = re.escape("".join(DELIMITERS))
    return f"^$|[\"\r\n]|{mark}|[{others}]|^[ \t'\ufeff]|[ \t]$"


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind) for test in (pa.types.is_string, pa.types.is_large_string, _is_string_view)
    )


def _is_string_view(kind: pa.DataType) -> bool:
    return kind == pa.string_view()


def _texts(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.ExtensionType | pa.UuidType):
        values = [None if value is None else str(value) for value in array.to_pylist()]
        return pa.array(values, _TEXT)
    if pa.types.is_dictionary(kind):
        return _texts(array.cast(kind.value_type))
    if pa.types.is_null(kind):
        return pa.nulls(len(array), _TEXT)
    if _is_binary(kind):
        values = [None if v is None else base64.b64encode(v).decode() for v in array.to_pylist()]
        return pa.array(values, _TEXT)
    if pa.types.is_duration(kind):
        return _seconds(array)
    if pa.types.is_float16(kind):
        array = array.cast(pa.float32())
    texts = array.cast(_TEXT)
    if pa.types.is_floating(array.type):
        # Else a column of whole numbers would come back as one of integers.
        texts = pc.replace_substring_regex(texts, _WHOLE, r"\1.0")
    return texts


def _seconds(spans: pa.Array) -> pa.Array:
    """Spans of time as decimals: a float does not hold all of their digits."""
    counts = spans.cast(pa.int64()).cast(pa.decimal128(19, 0))
    kind = pa.decimal128(19, _PLACES[spans.type.unit])
    buffers, nulls = counts.buffers(), counts.null_count
    texts = pa.Array.from_buffers(kind, len(counts), buffers, nulls, counts.offset).cast(_TEXT)
    texts = pc.replace_substring_regex(texts, _WHOLE, r"\1.0")
    texts = pc.replace_substring_regex(texts, _NOTHING, "0.0")
    return pc.replace_substring_regex(texts, _NOUGHTS, r"\1")


def _is_binary(kind: pa.DataType) -> bool:
    return (
        any(
            test(kind)
            for test in (
                pa.types.is_binary,
                pa.types.is_large_binary,
                pa.types.is_fixed_size_binary,
            )
        )
        or kind == pa.binary_view()
    )
