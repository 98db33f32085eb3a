"""The schema of a sample some lines of which are bad.

Where lines contradict each other, what most of them say holds: a bad line, wherever it is, must not
make the others bad.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import Form, Line, is_json, mismatch
from nvisy_connectors.object.formats.jsonl_parse import MAX_DEPTH, infer_lines
from nvisy_connectors.object.formats.jsonl_shape import Shapes
from nvisy_connectors.object.formats.jsonl_sieve import json_lines, small_lines, typed_lines
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import Indexes, LineTable

FEW_VOTERS, VOTERS = 256, 1024
"""Lines that are looked at one by one, at first, and when so many tell too little."""

_KINDS: dict[type, str] = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "text",
    list: "array",
    dict: "object",
}

Kinds = dict[str, str]
Sound = list[tuple[LineTable, Indexes]]


class NoSchemaError(ValueError):
    """No line of the sample is a JSON object with fields."""


def infer_leniently(blocks: Sequence[Block]) -> pa.Schema:
    """Schema of the sound lines of a sample.

    Raises:
        NoSchemaError: There is no sound line.
        pa.ArrowInvalid: The sound lines still contradict each other in some way.
    """
    tables = [LineTable(block) for block in blocks]
    braced = [(lines, np.flatnonzero(lines.look()[1])) for lines in tables]
    try:
        return _inferred(_alike(braced))
    except (NoSchemaError, pa.ArrowInvalid):
        pass
    sound = [
        (lines, json_lines(lines, good, partial(_is_inferable, lines))) for lines, good in braced
    ]
    try:
        return _inferred(sound)
    except pa.ArrowInvalid:
        sound = [
            (lines, small_lines(lines, good, partial(_is_inferable, lines)))
            for lines, good in sound
        ]
        count = sum(len(good) for _, good in sound)
    try:
        # A part of them votes; those that contradict the outcome are left out.
        told = _loose(_voted(sound, 1 + count // VOTERS))
        return _inferred([(lines, _agreeing(lines, good, told)) for lines, good in sound])
    except pa.ArrowInvalid:
        return _voted(sound, 1)


def _is_inferable(lines: LineTable, index: int) -> bool:
    line = lines.line(index)
    return is_json(line) and bool(_inferable([line]))


def _alike(braced: Sound) -> Sound:
    """The lines that look like those which agree with the first guess: the cheap way."""
    count = sum(len(good) for _, good in braced)
    agrees = _agreement(_loose(_voted(braced, 1 + count // FEW_VOTERS)))
    shapes = Shapes()
    return [(lines, shapes.alike(lines, good, partial(agrees, lines))) for lines, good in braced]


def _agreeing(lines: LineTable, good: Indexes, told: pa.Schema) -> Indexes:
    return typed_lines(lines, good, told, partial(_agreement(told), lines), no_others=False)


def _agreement(told: pa.Schema) -> Callable[[LineTable, int], bool]:
    form = Form(told, declared=True)

    def agrees(lines: LineTable, index: int) -> bool:
        return mismatch(Line(lines.block, 0, 0, 0, lines.line(index)), form) is None

    return agrees


def _inferred(sound: Sound) -> pa.Schema:
    found: list[bytes] = []
    for lines, good in sound:
        if len(good):
            with lines.only(good) as data:
                found.append(data.to_pybytes())
    if not found:
        raise NoSchemaError
    return infer_lines(found)


def _loose(schema: pa.Schema) -> pa.Schema:
    """The schema without what further lines may still change: numbers are numbers."""
    return pa.schema(_loose_fields(schema))


def _loose_fields(fields: Iterable[pa.Field]) -> list[pa.Field]:
    loose = ((field.name, _loose_type(field.type)) for field in fields)
    return [pa.field(name, kind) for name, kind in loose if kind is not None]


def _loose_type(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        return pa.struct(_loose_fields(kind))
    if pa.types.is_list(kind):
        item = _loose_type(kind.value_type)
        return None if item is None else pa.list_(item)
    return pa.float64() if pa.types.is_integer(kind) else kind


def _voted(sound: Sound, step: int) -> pa.Schema:
    """The schema of those of every `step`-th line that agree with most of them."""
    voters = [lines.line(int(index)) for lines, good in sound for index in good[::step]]
    told = [(data, _kinds(data)) for data in voters if is_json(data)]
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _, kinds in told:
        for path, kind in kinds.items():
            votes[path][kind] += 1
    # Of two that are as frequent, the one that came first: counters keep the order.
    winners = {path: counter.most_common(1)[0][0] for path, counter in votes.items()}
    kept = _inferable([data for data, kinds in told if kinds.items() <= winners.items()])
    if not kept:
        raise NoSchemaError
    return infer_lines(kept)


def _kinds(data: bytes) -> Kinds:
    """The kind of every value of a line that is not null, by its path."""
    found: Kinds = {}
    waiting: list[tuple[str, Any, int]] = [("", json.loads(data), 1)]
    while waiting:
        path, value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return {"": "nested too deep"}
        if value is None:
            continue
        kind = _KINDS[type(value)]
        if found.setdefault(path, kind) != kind:
            found[path] = "of several kinds"  # in one list
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}", inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[]", inner, depth + 1) for inner in value]
    return found


def _inferable(lines: list[bytes]) -> list[bytes]:
    """The lines of which alone a schema can be inferred."""
    if not lines:
        return []
    try:
        infer_lines(lines)
    except pa.ArrowInvalid:
        if len(lines) == 1:
            return []
        half = len(lines) // 2
        return _inferable(lines[:half]) + _inferable(lines[half:])
    return lines
