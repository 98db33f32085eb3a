"""What a predicate says of single columns, for sources that can leave records out."""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from nvisy_connectors.tabular.syntax import Node, RefusedError, parse_one
from nvisy_dagster.sdk.push_down import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Operator,
    Unknown,
    Value,
)

_OPERATORS: Mapping[str, Operator] = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "!=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_TURNED: Mapping[Operator, Operator] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_INVERSE: Mapping[Operator, Operator] = {
    "=": "!=",
    "!=": "=",
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
    "is null": "is not null",
    "is not null": "is null",
}
_TEXT_TESTS = frozenset(["~~", "!~~", "~~*", "!~~*", "contains", "starts_with", "ends_with"])
_TEXT_FUNCTIONS = frozenset(["lower", "upper", "trim", "ltrim", "rtrim"])
"""They take any text."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?")
_ZONED = re.compile(rf"{_TIME.pattern}(Z|[+-]\d\d:\d\d)")
_MOST_DIGITS = 18
"""Longer integers become other types."""


class _UnknownError(Exception):
    """A part may fail on some records: a cast, say."""


def condition_of(text: str) -> Condition | None:
    """What is known of a predicate; `None` if it may fail on a record.

    Conjunctions and disjunctions of a column compared with literals, `IN`, `BETWEEN` and
    `IS [NOT] NULL`, and of parts that fail on no record.
    """
    try:
        return _condition(parse_one(text))
    except (_UnknownError, RefusedError):
        return None


def _condition(node: Node) -> Condition:
    make: Callable[[Node], Condition] | None = {
        "CONJUNCTION": _conjunction,
        "COMPARISON": _comparison,
        "BETWEEN": _between,
        "OPERATOR": _operator,
        "FUNCTION": _function,
        "COLUMN_REF": lambda node: Compare(_column(node), "=", value=True),
    }.get(str(node["class"]))
    if make is None:
        raise _UnknownError
    return make(node)


def _conjunction(node: Node) -> Condition:
    parts = tuple(_condition(child) for child in node["children"])
    return AllOf(parts) if node["type"] == "CONJUNCTION_AND" else AnyOf(parts)


def _comparison(node: Node) -> Condition:
    operator = _OPERATORS.get(str(node["type"]))
    if operator is None:
        raise _UnknownError
    left, right = node["left"], node["right"]
    if left["class"] != "COLUMN_REF" and right["class"] == "COLUMN_REF":
        left, right = right, left
        operator = _TURNED.get(operator, operator)
    value = _value(right)
    if left["class"] == "FUNCTION" and isinstance(value, str):
        return Unknown(frozenset(_texts(left)))
    return Compare(_column(left), operator, value)


def _between(node: Node) -> Condition:
    column = _column(node["input"])
    lower, upper = _value(node["lower"]), _value(node["upper"])
    return AllOf((Compare(column, ">=", lower), Compare(column, "<=", upper)))


def _operator(node: Node) -> Condition:
    kind, children = node["type"], node["children"]
    if kind == "OPERATOR_NOT":
        return _not(_condition(children[0]))
    if kind == "OPERATOR_IS_NULL":
        return Compare(_column(children[0]), "is null")
    if kind == "OPERATOR_IS_NOT_NULL":
        return Compare(_column(children[0]), "is not null")
    if kind != "COMPARE_IN":
        raise _UnknownError
    column, values = _column(children[0]), [_value(child) for child in children[1:]]
    if len({type(value) for value in values}) != 1:
        raise _UnknownError  # they all become values of one type, and so does the column
    return AnyOf(tuple(Compare(column, "=", value) for value in values))


def _not(condition: Condition) -> Condition:
    match condition:
        case Compare(column, operator, value):
            return Compare(column, _INVERSE[operator], value)
        case AllOf(parts):
            return AnyOf(tuple(map(_not, parts)))
        case AnyOf(parts):
            return AllOf(tuple(map(_not, parts)))
        case Unknown():
            return condition


def _function(node: Node) -> Condition:
    if str(node["function_name"]).lower() not in _TEXT_TESTS:
        raise _UnknownError
    return Unknown(
        frozenset(name for one in node["arguments"] for name in _texts(one["expression"]))
    )


def _texts(node: Node) -> Iterator[str]:
    """The columns of a text that fails on no record if they are texts."""
    if node["class"] == "COLUMN_REF":
        yield _column(node)
        return
    if node["class"] == "CONSTANT" and isinstance(_value(node), str):
        return
    name = str(node.get("function_name", "")).lower()
    if node["class"] != "FUNCTION" or name not in _TEXT_FUNCTIONS:
        raise _UnknownError
    for argument in node["arguments"]:
        yield from _texts(argument["expression"])


def _column(node: Node) -> str:
    if node["class"] != "COLUMN_REF" or len(node["column_names"]) != 1:
        raise _UnknownError
    return str(node["column_names"][0])


def _value(node: Node) -> Value:
    if node["class"] == "CAST" and not node["try_cast"]:
        return _cast(node)
    if node["class"] != "CONSTANT":
        raise _UnknownError
    literal: dict[str, Any] = node["literal"]
    kind, text = literal["kind"], str(literal.get("text", ""))
    if kind == "STRING":
        return text
    if kind == "BOOLEAN":
        return text == "true"
    if kind == "INTEGER" and len(text.lstrip("-")) <= _MOST_DIGITS:
        return int(text)
    if kind == "NUMERIC":
        return float(text) if "e" in text.lower() else Decimal(text)
    raise _UnknownError


def _cast(node: Node) -> Value:
    """`DATE '2024-01-01'` and the like, in the plainest of their forms."""
    value, kind = _value(node["child"]), node["type_expr"]
    name = str(kind.get("type_name", "")).upper()
    if not isinstance(value, str) or kind.get("children"):
        raise _UnknownError
    try:
        if name == "DATE" and _DATE.fullmatch(value):
            return dt.date.fromisoformat(value)
        if name == "TIMESTAMP" and _TIME.fullmatch(value):
            return dt.datetime.fromisoformat(value)
        if name in {"TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"} and _ZONED.fullmatch(value):
            return dt.datetime.fromisoformat(value)
    except ValueError as error:
        raise _UnknownError from error
    raise _UnknownError
