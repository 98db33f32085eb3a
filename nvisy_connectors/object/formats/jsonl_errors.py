"""The second, lenient pass over lines that failed: which of them, and why."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from nvisy_connectors.object.formats.floats import LARGEST, as_number
from nvisy_connectors.object.formats.jsonl_check import checker, kind_of
from nvisy_connectors.object.formats.jsonl_parse import MAX_DEPTH, infer, line_numbers, parse
from nvisy_connectors.object.formats.jsonl_twice import TwiceError, marked, occurs_twice, once
from nvisy_connectors.object.formats.line_blocks import BOM, Block
from nvisy_dagster.sdk import DataError

MAX_BAD_LINES = 1000
"""Where the search for further bad lines ends."""

MAX_EXPONENT = 308
"""Of a number with one digit before the point."""

DECLARE = "mend the line, or declare `columns`: their types hold for all lines, others are ignored"
MEND = "mend the line, or remove it"
WIDEN = ', or keep what does not fit: "jsonl": {"on_drift": "widen"}'


class Line(NamedTuple):
    """One line that is not blank."""

    block: Block
    row: int
    """Index among the lines of its block that are not blank."""
    number: int
    start: int
    """Byte at which it begins."""
    data: bytes


class BadLine(NamedTuple):
    """A line that cannot become a row."""

    line: Line
    reason: str
    tag: str = "validation"

    @property
    def drifted(self) -> bool:
        """Whether it is a JSON object that does not fit the columns."""
        return self.tag == "drift"


class Form:
    """What every line must fit.

    Args:
        schema: The columns.
        declared: Whether fields that are not in the schema are ignored; else they are errors.
    """

    def __init__(self, schema: pa.Schema, *, declared: bool) -> None:
        self.schema = schema
        self.declared = declared
        self.check = checker(pa.struct(list(schema)), declared=declared)

    def ignores_twice(self, found: "_Found") -> bool:
        """Whether fields that occur twice are all that is wrong with a line, and are ignored."""
        if found.value is None or not self.declared:
            return False
        with suppress(RecursionError):
            return occurs_twice(found.value, list(self.schema)) is None
        return False

    def fits(self, lines: Sequence[Line]) -> bool:
        """Whether each of some lines is one row."""
        block = _block(lines)
        try:
            rows = parse(block, self.schema, declared=self.declared).num_rows
        except pa.ArrowInvalid:
            return False
        return line_numbers(block, rows) is not None


def explain(line: Line, form: Form) -> BadLine:
    """Why a line is no row."""
    return doubt(line, form) or BadLine(line, "it must hold one JSON object")


def is_json(data: bytes) -> bool:
    """Whether a line is one JSON object."""
    return _read(data).reason is None


def doubt(line: Line, form: Form) -> BadLine | None:
    """Why a line is no row; `None` if it is one."""
    if told := mismatch(line, form):
        return told
    try:
        parse(_block([line]), form.schema, declared=form.declared)
    except pa.ArrowInvalid as error:
        return _refused_by_arrow(line, form, _arrow_reason(error))
    return None


def fields_alone(value: Mapping[str, Any], line: Line, form: Form) -> list[str]:
    """The fields of a line that are no row when they are all that it holds."""
    found: list[str] = []
    for name, one in value.items():
        alone = json.dumps({name: one}).encode()
        if one is not None and not form.fits([line._replace(data=alone)]):
            found.append(name)
    return found


def _refused_by_arrow(line: Line, form: Form, reason: str) -> BadLine:
    anything = Form(pa.schema([]), declared=True)
    found = _read(line.data)
    is_object = found.reason is None or form.ignores_twice(found)
    if not is_object or not anything.fits([line]):
        return BadLine(line, reason)
    guilty = fields_alone(json.loads(line.data.removeprefix(BOM)), line, form)
    if guilty:
        kind = form.schema.field(guilty[0]).type
        reason = f"field {guilty[0]!r} does not fit the column, which is {kind}: {reason}"
    return BadLine(line, reason, tag="drift")


def mismatch(line: Line, form: Form) -> BadLine | None:
    """Why a line is no row, as far as its fields, their kinds and ranges tell.

    Where this refuses, Arrow would refuse too: what becomes of a line must not depend on whether
    others made it a suspect.
    """
    found = _read(line.data)
    if found.reason is None or form.ignores_twice(found):
        reason = form.check(found.value)
        return BadLine(line, reason, tag="drift") if reason else None
    if not found.sure and form.fits([line]):
        return None
    return BadLine(line, found.reason, found.tag)


def bad_lines(block: Block, schema: pa.Schema, *, declared: bool) -> list[BadLine]:
    """Every line of a block that is no JSON object or does not fit the schema."""
    form = Form(schema, declared=declared)
    guilty = _search(_lines(block), form)
    return [explain(line, form) for line in islice(guilty, MAX_BAD_LINES)]


def bad_lines_of_sample(blocks: Sequence[Block]) -> list[BadLine]:
    """Lines because of which no schema can be inferred from the blocks."""
    lines = [line for block in blocks for line in _lines(block)]
    told = ((line, _read(line.data)) for line in lines)
    broken = [BadLine(line, found.reason, found.tag) for line, found in told if found.reason]
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
    why = told or reason or "it contradicts an earlier line"
    return [BadLine(lines[bad - 1], why, tag="drift")]


def _contradiction(earlier: Sequence[Line], line: Line) -> str | None:
    """The field of a line that has another type than the same field before."""
    try:
        schema = infer([_block(earlier)]) if earlier else pa.schema([])
    except pa.ArrowInvalid:
        return None
    # Fields that are new are no contradiction while types are inferred.
    value = json.loads(line.data.decode("utf-8-sig"))
    found = Form(schema, declared=True).check(value)
    return found and found.replace(", and the column is", ", and in earlier lines it is", 1)


def data_error(found: Sequence[BadLine], uri: str, remedy: str) -> DataError:
    """The error that names the first bad line and lists all of them."""
    first = found[0]
    others = f"; {len(found) - 1} more lines are bad too" if len(found) > 1 else ""
    return DataError(
        f"{uri}, line {first.line.number} (byte {first.line.start}): {first.reason}{others}",
        rows={bad.line.row: f"line {bad.line.number}: {bad.reason}" for bad in found},
        remedy=remedy + WIDEN if first.drifted else remedy,
        tag=first.tag,
    )


def _lines(block: Block) -> list[Line]:
    """The lines of a block that are not blank."""
    found: list[Line] = []
    start = block.end - len(block.data)  # a byte order mark comes before it
    for number, data in enumerate(block.data.split(b"\n"), block.line):
        if data.removeprefix(BOM).strip(b" \t\r"):
            found.append(Line(block, len(found), number, start, bytes(data)))
        start += len(data) + 1
    return found


def _block(lines: Sequence[Line]) -> Block:
    data = bytearray(b"\n").join(line.data.removeprefix(BOM) for line in lines)
    return replace(lines[0].block, line=1, data=data)


def _search(lines: Sequence[Line], form: Form) -> Iterator[Line]:
    if not lines or form.fits(lines):
        return
    if len(lines) == 1:
        yield lines[0]
        return
    half = len(lines) // 2
    yield from _search(lines[:half], form)
    yield from _search(lines[half:], form)


@dataclass(frozen=True)
class _Found:
    """What a line holds, or why it holds no JSON object."""

    value: Any = None
    """The object; it may hold fields twice, and `reason` says so then."""
    reason: str | None = None
    tag: str = "format"
    sure: bool = True
    """Whether Arrow refuses it too, whatever the columns."""


def _read(data: bytes) -> _Found:
    data = data.removeprefix(BOM)
    try:
        value = _DECODER.decode(data.decode())
    except TwiceError as error:
        return _Found(_twice(data), str(error), sure=False)
    except (ValueError, RecursionError) as error:
        return _refusal(error)
    if not isinstance(value, dict):
        return _Found(reason=f"it must hold a JSON object, not {kind_of(value)}")
    return _Found(value)


def _twice(data: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        value = _MARKING.decode(data.decode())
        return value if isinstance(value, dict) else None
    return None


def _refusal(error: Exception) -> _Found:
    if isinstance(error, UnicodeDecodeError):
        reason = f"it is not UTF-8: {error.reason} at byte {error.start} of the line"
        return _Found(reason=reason, tag="encoding")
    if isinstance(error, json.JSONDecodeError):
        return _Found(reason=f"it is not JSON: {error.msg} at column {error.colno}")
    if isinstance(error, _TooBigError):
        return _Found(reason=str(error), tag="validation")
    if isinstance(error, RecursionError):
        return _Found(reason=f"it is nested deeper than {MAX_DEPTH}", sure=False)
    # A number of thousands of digits.
    return _Found(reason=str(error), sure=False)


class _TooBigError(ValueError):
    """A number has an exponent that no float has."""


def _float(text: str) -> float:
    value = float(text)
    if abs(value) >= _DOUBTFUL:
        digits, _, exponent = text.lower().partition("e")
        # Arrow's own rule: many digits alone are no reason to refuse.
        if exponent and int(exponent) > MAX_EXPONENT + len(digits.partition(".")[2]):
            raise _TooBigError(f"the number {text[:40]} is too big")
        return as_number(text)
    return value


_DOUBTFUL = LARGEST[32]
"""From here on a number may be rounded to one that a column of floats does not hold."""
_DECODER = json.JSONDecoder(object_pairs_hook=once, parse_float=_float)
_MARKING = json.JSONDecoder(object_pairs_hook=marked, parse_float=_float)


def _arrow_reason(error: pa.ArrowInvalid) -> str:
    return str(error).removeprefix("JSON parse error: ").rpartition(" in row ")[0] or str(error)
