"""Whether a JSON value fits a column, and if not, why: compiled once, asked for many lines."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from nvisy_connectors.object.formats.floats import Number, is_too_large
from nvisy_connectors.object.formats.jsonl_dates import may_be_date

Check = Callable[[Any], str | None]
"""Why a value is none of a column; `None` if it is one, as far as its kind and range tell."""

_KINDS: dict[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    Number: "a number",
    str: "a text",
    list: "an array",
    dict: "an object",
}


def kind_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """What a value is, in words."""
    return _KINDS.get(type(value), "null")


def checker(kind: pa.DataType, *, declared: bool, path: str = "") -> Check:
    """The check for values of a type.

    Args:
        kind: The type.
        declared: Whether fields that a struct does not have are ignored; else they are refused.
        path: Where the value is in the line, for the reasons.
    """
    if pa.types.is_struct(kind):
        return _struct(kind, path, declared=declared)
    if pa.types.is_list(kind):
        return _list(kind, path, declared=declared)
    return _date(kind, path) if pa.types.is_date32(kind) else _scalar(kind, path)


def _struct(kind: pa.DataType, path: str, *, declared: bool) -> Check:
    checks = {
        field.name: checker(
            field.type, declared=declared, path=f"{path}.{field.name}" if path else field.name
        )
        for field in kind
    }
    refused = _refused(kind, path)

    def check(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, dict):
            return None if value is None else refused(value)
        for name, inner in value.items():
            known = checks.get(name)
            if known is not None:
                if reason := known(inner):
                    return reason
            elif not declared:
                where = f"{path}.{name}" if path else name
                return f"field {where!r} is not in the lines from which the columns were inferred"
        return None

    return check


def _list(kind: pa.DataType, path: str, *, declared: bool) -> Check:
    inner = checker(kind.value_type, declared=declared, path=f"{path}[]")
    refused = _refused(kind, path)

    def check(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
        if not isinstance(value, list):
            return None if value is None else refused(value)
        return next(filter(None, map(inner, value)), None)

    return check


def _scalar(kind: pa.DataType, path: str) -> Check:
    fits = _types(kind)
    limits, is_large = _limits(kind), _largeness(kind)
    refused = _refused(kind, path)

    def check(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
        if value is None:
            return None
        if type(value) not in fits:
            return refused(value)
        is_outside = not limits[0] <= value <= limits[1] if limits else is_large(value)
        if is_outside:
            return f"field {path!r} is out of the range of {kind}"
        return None

    return check


def _date(kind: pa.DataType, path: str) -> Check:
    refused = _refused(kind, path)

    def check(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
        if value is None:
            return None
        if not isinstance(value, str):
            return refused(value)
        return None if may_be_date(value) else f"field {path!r} is no date such as 2026-01-31"

    return check


def _refused(kind: pa.DataType, path: str) -> Callable[[Any], str]:
    def reason(value: Any) -> str:  # noqa: ANN401 - any JSON value
        return f"field {path!r} is {kind_of(value)}, and the column is {kind}"

    return reason


def _types(kind: pa.DataType) -> set[type]:
    types = pa.types
    if types.is_boolean(kind):
        return {bool}
    if types.is_integer(kind):
        return {int}
    if types.is_floating(kind):
        return {int, float, Number}
    if types.is_decimal(kind):
        return {int, float, Number, str}
    return {str} if types.is_string(kind) or types.is_timestamp(kind) else set()


def _limits(kind: pa.DataType) -> tuple[int, int] | None:
    if not pa.types.is_integer(kind):
        return None
    if pa.types.is_unsigned_integer(kind):
        return 0, (1 << kind.bit_width) - 1
    half = 1 << (kind.bit_width - 1)
    return -half, half - 1


def _largeness(kind: pa.DataType) -> Callable[[Any], bool]:
    if not pa.types.is_floating(kind):
        return lambda _: False
    return lambda value: is_too_large(value, kind.bit_width)
