"""Values of records in JSON: strict, and without loss where the Arrow type is known."""

import base64
import binascii
import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, cast

import pyarrow as pa

from nvisy_dagster.sdk.identity import parse_uuid

Decode = Callable[[Any], Any]


def encode_scalar(value: object) -> object:
    """What stands in JSON for a value that JSON has no word for; for `json.dumps(default=...)`.

    Raises:
        ValueError: Nothing does.
    """
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case dt.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value / dt.timedelta(seconds=1)
        case Decimal():
            return str(value)
        case _:
            raise ValueError(f"a {type(value).__name__} cannot be written as JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=encode_scalar
)


def parse_object(line: str) -> dict[str, Any]:
    """A JSON object: no NaN, no infinity, no duplicate key, no number too large for a float.

    Raises:
        ValueError: The text is not such an object.
    """
    try:
        value = json.loads(
            line,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")  # noqa: TRY004 - about the text, not its type
    return cast("dict[str, Any]", value)


def dump(value: object) -> str:
    """Compact JSON text.

    Raises:
        ValueError: The value holds NaN, an infinity or something that JSON has no word for.
    """
    return _ENCODER.encode(value)


def decode_id(value: object) -> bytes:
    """An id from UUID text."""
    return parse_uuid(_text(value))


def decoder(kind: pa.DataType) -> Decode:
    """A function from JSON value to the Python value that this Arrow type stores.

    It raises `ValueError` rather than convert one type into another.
    """
    decode = _decoder(kind)
    return lambda value: None if value is None else decode(value)


def _decoder(kind: pa.DataType) -> Decode:
    if pa.types.is_struct(kind):
        return _struct_decoder(kind)
    if pa.types.is_map(kind):
        pair = [decoder(kind.key_type), decoder(kind.item_type)]
        return lambda value: [tuple(f(x) for f, x in zip(pair, p, strict=True)) for p in value]
    if pa.types.is_nested(kind):
        item = decoder(kind.value_type)
        return lambda value: [item(element) for element in _list(value)]
    return next((decode for test, decode in _SCALARS if test(kind)), _refuse)


def _struct_decoder(kind: pa.DataType) -> Decode:
    decoders = {field.name: decoder(field.type) for field in kind}

    def decode(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"expected an object, found {_name(value)}")  # noqa: TRY004
        members = cast("dict[str, Any]", value)
        unknown = members.keys() - decoders.keys()
        if unknown:
            raise ValueError(f"unknown field {min(unknown)!r}")
        return {name: decode(members.get(name)) for name, decode in decoders.items()}

    return decode


def _name(value: object) -> str:
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
    }
    return names.get(type(value), "a number")


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {_name(value)}")  # noqa: TRY004
    return cast("list[Any]", value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {_name(value)}")  # noqa: TRY004
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected a truth value, found {_name(value)}")  # noqa: TRY004
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("expected an integer")  # noqa: TRY004
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"expected a number, found {_name(value)}")  # noqa: TRY004
    return value


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _moment(value: object) -> dt.datetime:
    return dt.datetime.fromisoformat(_text(value))


def _aware_moment(value: object) -> dt.datetime:
    moment = _moment(value)
    if moment.tzinfo is None:
        raise ValueError("the timestamp has no timezone; end it with Z for UTC")
    return moment


def _refuse(value: object) -> Any:  # noqa: ANN401 - never returns
    raise ValueError(f"{_name(value)} cannot be read into a column of this type")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a float")
    return number


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice!r}")
    return value


def _is_zoned(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


_SCALARS: Sequence[tuple[Callable[[pa.DataType], bool], Decode]] = (
    (_is_text, _text),
    (_is_bytes, _base64),
    (pa.types.is_boolean, _truth),
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _number),
    (_is_zoned, _aware_moment),
    (pa.types.is_timestamp, _moment),
    (pa.types.is_date, lambda value: dt.date.fromisoformat(_text(value))),
    (pa.types.is_time, lambda value: dt.time.fromisoformat(_text(value))),
    (pa.types.is_duration, lambda value: dt.timedelta(seconds=_number(value))),
    (pa.types.is_decimal, lambda value: Decimal(_text(value))),
)
