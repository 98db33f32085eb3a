"""Lines that drifted from their columns: what fits becomes a row, the rest is kept as JSON."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.formats.floats import Number, as_number
from nvisy_connectors.object.formats.jsonl_check import checker
from nvisy_connectors.object.formats.jsonl_errors import Form, Line, fields_alone
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_rescued import RESCUED_FIELD, with_texts
from nvisy_connectors.object.formats.jsonl_salvage import Salvaged, merged
from nvisy_connectors.object.formats.line_blocks import BOM

Split = Callable[[Any], tuple[Any, Any]]
"""A value -> what of it fits a column, and what does not, or `_NOTHING`."""

_NOTHING: Any = object()


class _MinusZero(int):
    """`-0`, which is minus zero in a column of floats."""


_MINUS_ZERO = _MinusZero()
_EXACT_DIGITS = 15
"""So many digits come out of a float as they went in."""


def widened(schema: pa.Schema) -> pa.Schema:
    """Inferred columns, with text where there were only nulls."""
    return pa.schema([field.with_type(_text_for_null(field.type)) for field in schema])


def _text_for_null(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_text_for_null(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_text_for_null(field.type)) for field in kind])
    return kind


class Rescue:
    """Makes rows of lines that drifted.

    Args:
        schema: The columns, without that of what is rescued.
        declared: Whether fields that are not in the schema are ignored; else they are rescued.
    """

    def __init__(self, schema: pa.Schema, *, declared: bool) -> None:
        self._form = Form(schema, declared=declared)
        self._split = _split_struct(list(schema), declared=declared)

    def __call__(self, salvaged: Salvaged) -> Salvaged:
        """What a block holds, with rows of the lines that drifted."""
        drifted = [bad.line for bad in salvaged.bad if bad.drifted]
        if not drifted:
            return salvaged
        kept = self._all(drifted)
        numbers = np.array([line.number for line, _, _ in kept], np.int64)
        rows = self._rows([data for _, data, _ in kept])
        assert rows is not None  # noqa: S101 - each was found to fit, or all of them together
        texts = pa.array([text for _, _, text in kept], RESCUED_FIELD.type)
        rows, found = merged((salvaged.rows, salvaged.numbers), (with_texts(rows, texts), numbers))
        saved = set(numbers.tolist())
        bad = [one for one in salvaged.bad if one.line.number not in saved]
        return Salvaged(rows, found, bad)

    def _all(self, lines: Sequence[Line]) -> list[tuple[Line, bytes, str]]:
        split = [(line, made) for line in lines if (made := self._one(line))]
        kept = [(line, *made) for line, made in split]
        if self._rows([data for _, data, _ in kept]) is not None:
            return kept
        # Some values look right and are not, such as a text that should be a timestamp.
        again = ((line, self._by_fields(line)) for line, _ in split)
        return [(line, *made) for line, made in again if made]

    def _rows(self, lines: Sequence[bytes]) -> pa.RecordBatch | None:
        form = self._form
        with suppress(pa.ArrowInvalid):
            rows = read_rows(pa.py_buffer(b"\n".join(lines)), form.schema, declared=form.declared)
            if rows.num_rows == len(lines):
                return rows
        return None

    def _one(self, line: Line) -> tuple[bytes, str] | None:
        """What fits, as a line, and the rest; `None` when it cannot be told apart."""
        try:
            return _written(*self._split(_read(line.data)))
        except (ValueError, RecursionError):
            return None

    def _by_fields(self, line: Line) -> tuple[bytes, str] | None:
        """The same, with each field asked for alone."""
        try:
            value = _read(line.data)
            fits, rest = self._split(value)
            rest = {} if rest is _NOTHING else rest
            for name in fields_alone(fits, line, self._form):
                del fits[name]
                rest[name] = value[name]
            made = _written(fits, rest)
        except (ValueError, RecursionError):
            return None
        return made if self._rows([made[0]]) is not None else None


@lru_cache(maxsize=64)
def rescuer(schema: pa.Schema, *, declared: bool) -> Rescue:
    """That of a schema; threads may share it."""
    return Rescue(schema, declared=declared)


def _split_struct(inner: Sequence[pa.Field], *, declared: bool) -> Split:
    splits = {field.name: _split(field.type, declared=declared) for field in inner}

    def split(value: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any JSON value
        if not isinstance(value, dict):
            return None, _NOTHING if value is None else value
        fits: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, found in value.items():
            known = splits.get(name)
            if known is not None:
                fits[name], other = known(found)
                if other is not _NOTHING:
                    rest[name] = other
            elif not declared:
                rest[name] = found
        return fits, rest or _NOTHING

    return split


def _split_list(kind: pa.DataType, *, declared: bool) -> Split:
    inner = _split(kind, declared=declared)

    def split(value: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any JSON value
        if not isinstance(value, list):
            return None, _NOTHING if value is None else value
        pairs = [inner(one) for one in value]
        whole = all(rest is _NOTHING for _, rest in pairs)
        return [fits for fits, _ in pairs], _NOTHING if whole else value

    return split


def _split(kind: pa.DataType, *, declared: bool) -> Split:
    if pa.types.is_struct(kind):
        return _split_struct(list(kind), declared=declared)
    if pa.types.is_list(kind):
        return _split_list(kind.value_type, declared=declared)
    check = checker(kind, declared=declared)

    def split(value: Any) -> tuple[Any, Any]:  # noqa: ANN401 - any JSON value
        if value is _MINUS_ZERO:
            # Arrow takes it for no number without a sign.
            fits = not pa.types.is_unsigned_integer(kind) and check(0) is None
        else:
            fits = check(value) is None
        return (value, _NOTHING) if fits else (None, value)

    return split


def _read(data: bytes) -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(data.removeprefix(BOM), parse_float=_number, parse_int=_integer)


def _integer(text: str) -> int:
    return _MINUS_ZERO if text == "-0" else int(text)


def _number(text: str) -> float:
    value = float(text)
    return value if len(text) <= _EXACT_DIGITS and isfinite(value) else as_number(text)


def _written(fits: Any, rest: Any) -> tuple[bytes, str]:  # noqa: ANN401 - any JSON value
    """What fits, as a line, and the rest as JSON.

    Raises:
        ValueError: It holds what JSON cannot express, or half of a character.
        RecursionError: It is nested too deep.
    """
    text = _text({} if rest is _NOTHING else rest, nan=False)
    text.encode()
    return _text(fits, nan=True).encode(), text


def _text(value: Any, *, nan: bool) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        members = (f"{_text(name, nan=nan)}:{_text(one, nan=nan)}" for name, one in value.items())
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(_text(one, nan=nan) for one in value)}]"
    if type(value) is Number:
        return value.text
    if value is _MINUS_ZERO:
        return "-0"
    return _ENCODE[nan](value)


_ENCODE = {nan: json.JSONEncoder(ensure_ascii=False, allow_nan=nan).encode for nan in (True, False)}
