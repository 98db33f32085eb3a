"""From bytes to a JSON value that nothing after it need fear.

What passes has unique keys, finite numbers, integers of 64 bits, text that is valid Unicode
without NUL, and bounded size and depth. What does not is refused with its place.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from nvisy_dagster.graph.errors import GraphError, GraphErrors, shown
from nvisy_dagster.graph.places import Step, Steps, json_path

MAX_BYTES = 16 * 1024 * 1024
"""Largest document that is read."""
MAX_DEPTH = 100
"""Deepest nesting of objects and arrays."""
MAX_VALUES = 1_000_000
"""Most values in one document."""
MAX_ERRORS = 1000
"""Mistakes after which the rest of a document is not looked at."""

_INT64_DIGITS = 19
_BAD_TEXT = re.compile("[\ud800-\udfff\0]")
_BOMS = {
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SYNTAX_REMEDIES = {
    "Expecting property name enclosed in double quotes": (
        "expected a key in double quotes",
        "keys need double quotes; JSON has no comments and no comma after the last entry",
    ),
    "Illegal trailing comma": ("a comma after the last entry", "remove it"),
    "Expecting ',' delimiter": ("expected a comma or the end", "is a comma missing before this?"),
    "Expecting ':' delimiter": ("expected a colon after the key", None),
    "Expecting value": (
        "expected a value",
        "JSON knows objects, arrays, strings in double quotes, numbers, true, false and null",
    ),
    "Extra data": ("the document ends before this", "remove what follows, or a bracket too many"),
    "Unterminated string": ("this string does not end", "close it with a double quote"),
    "Invalid control character": (
        "a raw control character in a string",
        r"write it as an escape such as \n or \t",
    ),
    "Invalid \\": ("an escape that JSON does not know", r"a backslash itself is written \\"),
}


@dataclass(frozen=True)
class _Unfit:
    """Stands where a value stood that must be refused."""

    message: str
    remedy: str


class _Repeated(dict[str, Any]):
    """An object that says some of its keys twice."""

    keys_repeated: tuple[str, ...] = ()


def parse_json(data: bytes | str, *, what: str = "graph", file: str | None = None) -> Any:  # noqa: ANN401
    """The JSON value that a text holds.

    Raises:
        GraphErrors: It is too large, not UTF-8, not JSON, or holds what no document may hold.
    """

    def refuse(message: str, remedy: str | None, line: int = 1, column: int = 1) -> NoReturn:
        raise GraphErrors([GraphError("$", message, remedy, line, column)], what=what, file=file)

    text = _decode(data, refuse)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        message, remedy = _syntax(error, text)
        refuse(message, remedy, error.lineno, error.colno)
    except RecursionError:
        refuse(f"nested deeper than {MAX_DEPTH} levels", "write it flatter")
    errors = list(unfit_values(value))
    if errors:
        raise GraphErrors(errors, what=what, file=file)
    return value


def unfit_values(document: Any) -> Iterator[GraphError]:  # noqa: ANN401 - any JSON
    """What no document may hold, wherever it is in this one; about `MAX_ERRORS` of them at most."""
    found = seen = 0
    waiting: list[tuple[Steps, Any]] = [((), [document])]
    while waiting and found < MAX_ERRORS:
        steps, container = waiting.pop()
        seen += len(container)
        if seen > MAX_VALUES:
            yield GraphError("$", f"more than {MAX_VALUES:,} values", "split the document")
            return
        if len(steps) > MAX_DEPTH:
            path = json_path(steps[1:6]) + "..."
            yield GraphError(path, f"nested deeper than {MAX_DEPTH} levels", "write it flatter")
            return
        inner: list[tuple[Steps, Any]] = []
        for error in _look_into(steps, container, inner):
            yield error
            found += 1
            if found >= MAX_ERRORS:
                return
        # Reversed, so that errors come in the order of the document.
        waiting.extend(reversed(inner))


def _look_into(
    steps: Steps,
    container: Any,  # noqa: ANN401 - an object or array
    inner: list[tuple[Steps, Any]],
) -> Iterator[GraphError]:
    """What is unfit in one object or array; the containers in it are added to `inner`.

    The first step of every place is the box around the document.
    """
    if isinstance(container, dict):
        children: Iterable[tuple[Step, Any]] = cast("dict[Step, Any]", container).items()
        yield from _unfit_keys(steps[1:], cast("dict[Any, Any]", container))
    else:
        children = enumerate(cast("list[Any]", container))
    for step, child in children:
        # Most values are harmless scalars: they must cost nothing but this.
        if child is None or child is True or child is False or type(child) is int:
            continue
        if isinstance(child, dict | list):
            inner.append(((*steps, step), child))
            continue
        problem = _unfit(child)
        if problem:
            yield GraphError(json_path((*steps, step)[1:]), *problem)


def _unfit(value: Any) -> tuple[str, str] | None:  # noqa: ANN401 - any JSON
    """Message and remedy, when a scalar is unfit."""
    if isinstance(value, str):
        bad = _BAD_TEXT.search(value)
        return _bad_text(bad[0]) if bad else None
    if isinstance(value, float):
        return None if math.isfinite(value) else ("not a finite number", "write a number, or null")
    if isinstance(value, _Unfit):
        return value.message, value.remedy
    if isinstance(value, int):
        return None
    return f"a {type(value).__name__} is not JSON", "use what JSON knows"


def _unfit_keys(steps: Steps, value: dict[Any, Any]) -> Iterator[GraphError]:
    for key in getattr(value, "keys_repeated", ()):
        message = f"the key {shown(key)} is here more than once"
        yield GraphError(json_path((*steps, key)), message, "keep one of them")
    for key in value:
        if not isinstance(key, str):
            yield GraphError(json_path(steps), "a key that is not a string", "use strings as keys")
        elif not key.isascii() or "\0" in key:
            bad = _BAD_TEXT.search(key)
            if bad:
                what, remedy = _bad_text(bad[0])
                yield GraphError(json_path(steps), f"{what} in a key", remedy)


def _bad_text(character: str) -> tuple[str, str]:
    if character == "\0":
        return "a NUL character", r"remove \u0000: most systems cannot store it"
    return (
        f"half of a surrogate pair (\\u{ord(character):04x})",
        "write the character itself, or both halves of the pair",
    )


def _decode(data: bytes | str, refuse: Callable[..., NoReturn]) -> str:
    size = len(data)
    if size > MAX_BYTES:
        refuse(
            f"larger than the limit of {MAX_BYTES // 2**20} MiB",
            "split it into several graphs, or keep data out of it",
        )
    if isinstance(data, str):
        if data.startswith("\ufeff"):
            refuse("starts with a byte order mark", "save it as UTF-8 without BOM")
        text = data
    else:
        for mark, encoding in _BOMS.items():
            if data.startswith(mark):
                refuse(f"starts with a {encoding} byte order mark", "save it as UTF-8 without BOM")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
            refuse(
                f"byte 0x{data[error.start]:02x} is not valid UTF-8",
                "save it as UTF-8",
                line,
                column,
            )
    if not text.strip():
        refuse("the document is empty", 'the least graph is {"nodes": [...], "edges": [...]}')
    return text


def _syntax(error: json.JSONDecodeError, text: str) -> tuple[str, str | None]:
    if error.pos >= len(text.rstrip()):
        return "the document ends too early", "close what is still open, or check the download"
    if text[error.pos] == "\0":
        return "a NUL byte", "save it as UTF-8 text"
    for start, (message, remedy) in _SYNTAX_REMEDIES.items():
        if error.msg.startswith(start):
            return f"not JSON: {message}", remedy
    return f"not JSON: {error.msg}", None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    seen: set[str] = set()
    again = dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key))
    repeated = _Repeated(plain)
    repeated.keys_repeated = tuple(again)
    return repeated


def _integer(digits: str) -> int | _Unfit:
    number = int(digits) if len(digits) <= _INT64_DIGITS + 1 else None
    if number is not None and -(2**63) <= number < 2**63:
        return number
    count = len(digits.lstrip("-"))
    return _Unfit(f"an integer of {count:,} digits does not fit 64 bits", "write it as a string")


def _float(digits: str) -> float | _Unfit:
    number = float(digits)
    if math.isfinite(number):
        return number
    return _Unfit(f"the number {digits[:20]} is out of range", "the largest is about 1.8e308")


def _constant(name: str) -> _Unfit:
    return _Unfit(f"{name} is not JSON", "write a number, or null")
