"""Declared columns: Arrow types written as text, such as `list<struct<name: string>>`."""

import re
from collections.abc import Mapping

import pyarrow as pa

MAX_DEPTH = 32
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][\w.-]*(?:\[[^\]]*\]|\([^)]*\))?)|([<>,:]))")
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:,\s*(?:tz=)?([\w+:/-]+))?\]")
_DECIMAL = re.compile(r"decimal(?:128)?\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_SCALARS: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "string": pa.string(),
    "float": pa.float64(),
    "double": pa.float64(),
    "int": pa.int64(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
    **{
        f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float32": pa.float32(),
    "float64": pa.float64(),
}


def parse_columns(
    columns: Mapping[str, str], more: Mapping[str, pa.DataType] | None = None
) -> pa.Schema:
    """Column names and their types -> schema of nullable fields.

    Args:
        columns: The types as text.
        more: Further types by name.

    Raises:
        ValueError: A type cannot be read; names the column.
    """
    fields: list[pa.Field] = []
    for name, text in columns.items():
        try:
            kind = (more or {}).get(text.strip())
            fields.append(pa.field(name, parse_type(text) if kind is None else kind))
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from error
    return pa.schema(fields)


def parse_type(text: str) -> pa.DataType:
    """One type.

    Raises:
        ValueError: It cannot be read.
    """
    tokens = _tokens(text)
    kind = _type(tokens, text, 0)
    if tokens:
        raise ValueError(f"unexpected {tokens[0]!r} in type {text!r}")
    return kind


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    place = 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"type {text!r} cannot be read from {text[place:].strip()[:20]!r} on")
        tokens.append(found[1] or found[2])
        place = found.end()
    return tokens


def _type(tokens: list[str], text: str, depth: int) -> pa.DataType:
    if depth > MAX_DEPTH:
        raise ValueError(f"types may be nested {MAX_DEPTH} deep, no deeper")
    word = _next(tokens, text)
    if word == "list":
        _expect(tokens, "<", text)
        if len(tokens) > 1 and tokens[1] == ":":  # pyarrow writes list<item: string>
            del tokens[:2]
        item = _type(tokens, text, depth + 1)
        _expect(tokens, ">", text)
        return pa.list_(item)
    if word == "struct":
        return pa.struct(_fields(tokens, text, depth))
    return _scalar(word)


def _fields(tokens: list[str], text: str, depth: int) -> list[pa.Field]:
    fields: list[pa.Field] = []
    _expect(tokens, "<", text)
    while True:
        name = _next(tokens, text)
        _expect(tokens, ":", text)
        fields.append(pa.field(name, _type(tokens, text, depth + 1)))
        if (mark := _next(tokens, text)) == ">":
            return fields
        if mark != ",":
            raise ValueError(f"expected ',' or '>' in type {text!r}, not {mark!r}")


def _scalar(word: str) -> pa.DataType:
    if word in _SCALARS:
        return _SCALARS[word]
    if found := _TIMESTAMP.fullmatch(word):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.fullmatch(word):
        return pa.decimal128(int(found[1]), int(found[2]))
    known = ", ".join(sorted({*_SCALARS, "list<..>", "struct<name: ..>", "timestamp[us, UTC]"}))
    raise ValueError(f"unknown type {word!r}; known are {known}, decimal(p, s)")


def _next(tokens: list[str], text: str) -> str:
    if not tokens:
        raise ValueError(f"type {text!r} ends too early")
    return tokens.pop(0)


def _expect(tokens: list[str], wanted: str, text: str) -> None:
    if (found := _next(tokens, text)) != wanted:
        raise ValueError(f"expected {wanted!r} in type {text!r}, not {found!r}")
