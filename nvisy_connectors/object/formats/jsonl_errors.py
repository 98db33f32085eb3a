"""The second, lenient pass over lines that failed: which of them, and why."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_parse import MAX_DEPTH, infer, line_numbers, parse
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_dagster.sdk import DataError

MAX_BAD_LINES = 1000
"""Where the search for further bad lines ends."""

DECLARE = "mend the line, or declare `columns`: their types hold for all lines, others are ignored"
MEND = "mend the line, or remove it"


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    block: Block
    row: int
    """Index among the lines of its block that are not blank."""
    number: int
    start: int
    """Byte at which it begins."""
    data: bytes


@dataclass(frozen=True)
class BadLine:
    """A line that cannot become a row."""

    line: Line
    reason: str
    tag: str = "validation"


def explain(line: Line, schema: pa.Schema, *, declared: bool) -> BadLine:
    """Why a line is no row of the schema."""
    found = doubt(line, schema, declared=declared)
    return found or BadLine(line, "it must hold one JSON object")


def is_json(data: bytes) -> bool:
    """Whether a line is one JSON object."""
    return _syntax(data)[0] is None


def doubt(line: Line, schema: pa.Schema, *, declared: bool) -> BadLine | None:
    """Why a line is no row of the schema; `None` if it is one."""
    if told := mismatch(line, schema, declared=declared):
        return told
    try:
        parse(_block([line]), schema, declared=declared)
    except pa.ArrowInvalid as error:
        return BadLine(line, _arrow_reason(error))
    return None


def mismatch(line: Line, schema: pa.Schema, *, declared: bool) -> BadLine | None:
    """Why a line is no row of the schema, as far as its fields and their kinds tell."""
    reason, tag, value = _syntax(line.data)
    reason = reason or _mismatch(value, pa.struct(list(schema)), "", declared=declared)
    return BadLine(line, reason, tag) if reason else None


def bad_lines(block: Block, schema: pa.Schema, *, declared: bool) -> list[BadLine]:
    """Every line of a block that is no JSON object or does not fit the schema."""
    guilty = _search(_lines(block), schema, declared=declared)
    return [explain(line, schema, declared=declared) for line in islice(guilty, MAX_BAD_LINES)]


def bad_lines_of_sample(blocks: Sequence[Block]) -> list[BadLine]:
    """Lines because of which no schema can be inferred from the blocks."""
    lines = [line for block in blocks for line in _lines(block)]
    told = ((line, *_syntax(line.data)[:2]) for line in lines)
    broken = [BadLine(line, reason, tag) for line, reason, tag in told if reason]
    if broken:
        return broken[:MAX_BAD_LINES]
    # No line is at fault alone: two contradict each other, and the later one is named.
    good, bad = 0, len(lines)
    reason: str | None = None
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            infer([_block(lines[:middle])])
            good = middle
        except pa.ArrowInvalid as error:
            bad, reason = middle, _arrow_reason(error)
    if not lines:
        return []
    told = _contradiction(lines[: bad - 1], lines[bad - 1])
    return [BadLine(lines[bad - 1], told or reason or "it contradicts an earlier line")]


def _contradiction(earlier: Sequence[Line], line: Line) -> str | None:
    """The field of a line that has another type than the same field before."""
    try:
        schema = infer([_block(earlier)]) if earlier else pa.schema([])
    except pa.ArrowInvalid:
        return None
    # Fields that are new are no contradiction while types are inferred.
    value = json.loads(line.data.decode("utf-8-sig"))
    found = _mismatch(value, pa.struct(list(schema)), "", declared=True)
    return found and found.replace(", and the column is", ", and in earlier lines it is", 1)


def data_error(found: Sequence[BadLine], uri: str, remedy: str) -> DataError:
    """The error that names the first bad line and lists all of them."""
    first = found[0]
    others = f"; {len(found) - 1} more lines are bad too" if len(found) > 1 else ""
    return DataError(
        f"{uri}, line {first.line.number} (byte {first.line.start}): {first.reason}{others}",
        rows={bad.line.row: f"line {bad.line.number}: {bad.reason}" for bad in found},
        remedy=remedy,
    )


def _lines(block: Block) -> list[Line]:
    """The lines of a block that are not blank."""
    found: list[Line] = []
    start = block.end - len(block.data)  # a byte order mark comes before it
    for number, data in enumerate(block.data.split(b"\n"), block.line):
        if data.strip():
            found.append(Line(block, len(found), number, start, data))
        start += len(data) + 1
    return found


def _block(lines: Sequence[Line]) -> Block:
    data = b"\n".join(line.data for line in lines)
    return replace(lines[0].block, line=1, data=data)


def _search(lines: Sequence[Line], schema: pa.Schema, *, declared: bool) -> Iterator[Line]:
    if not lines or _fits(lines, schema, declared=declared):
        return
    if len(lines) == 1:
        yield lines[0]
        return
    half = len(lines) // 2
    yield from _search(lines[:half], schema, declared=declared)
    yield from _search(lines[half:], schema, declared=declared)


def _fits(lines: Sequence[Line], schema: pa.Schema, *, declared: bool) -> bool:
    block = _block(lines)
    try:
        rows = parse(block, schema, declared=declared).num_rows
    except pa.ArrowInvalid:
        return False
    return line_numbers(block, rows) is not None


def _syntax(data: bytes) -> tuple[str | None, str, Any]:
    """Why a line is no JSON object, the tag of that; and its value."""
    try:
        value = _DECODER.decode(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: {error.reason} at byte {error.start} of the line"
        return reason, "encoding", None
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg} at column {error.colno}", "format", None
    except RecursionError:
        return f"it is nested deeper than {MAX_DEPTH}", "format", None
    except ValueError as error:  # a field twice, or a number of thousands of digits
        return str(error), "format", None
    if not isinstance(value, dict):
        return f"it must hold a JSON object, not {_kind(value)}", "format", None
    return None, "validation", value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"field {name!r} occurs twice")
        found[name] = value
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _mismatch(value: Any, kind: pa.DataType, path: str, *, declared: bool) -> str | None:  # noqa: ANN401
    if value is None:
        return None
    if pa.types.is_struct(kind) and isinstance(value, dict):
        return _fields_mismatch(value, kind, path, declared=declared)
    if pa.types.is_list(kind) and isinstance(value, list):
        inner = (_mismatch(v, kind.value_type, f"{path}[]", declared=declared) for v in value)
        return next(filter(None, inner), None)
    fits = {
        bool: pa.types.is_boolean,
        int: lambda t: pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t),
        float: lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t),
        str: lambda t: pa.types.is_string(t) or pa.types.is_timestamp(t),
    }.get(type(value))
    if fits is not None and fits(kind):
        return None
    return f"field {path!r} is {_kind(value)}, and the column is {kind}"


def _fields_mismatch(
    value: dict[str, Any], kind: pa.DataType, path: str, *, declared: bool
) -> str | None:
    known = {field.name: field.type for field in kind}
    for name, inner in value.items():
        where = f"{path}.{name}" if path else name
        if name in known:
            if reason := _mismatch(inner, known[name], where, declared=declared):
                return reason
        elif not declared:
            return f"field {where!r} is not in the lines from which the columns were inferred"
    return None


def _kind(value: Any) -> str:  # noqa: ANN401 - any JSON value
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a text",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null")


def _arrow_reason(error: pa.ArrowInvalid) -> str:
    return str(error).removeprefix("JSON parse error: ").rpartition(" in row ")[0] or str(error)
