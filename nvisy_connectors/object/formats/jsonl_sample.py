"""The schema of a sample some lines of which are bad.

Where lines contradict each other, what most of them say holds: a bad line, wherever it is, must not
make the others bad.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.formats.jsonl_errors import Form, Line, is_json, mismatch
from nvisy_connectors.object.formats.jsonl_parse import (
    FEW_BYTES,
    MAX_DEPTH,
    agrees,
    infer_few,
    infer_lines,
)
from nvisy_connectors.object.formats.jsonl_rows import ROW, SUSPECT, line_reader
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import Indexes, LineTable

FEW_VOTERS, VOTERS = 256, 1024
"""Lines that are looked at one by one, at first, and when so many tell too little."""

FEW_SUSPECTS = 16
"""Lines that are looked at to find one that is bad."""

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
    """Schema of the sound lines of a sample: of all of them, if none is bad.

    Raises:
        NoSchemaError: There is no sound line.
        pa.ArrowInvalid: The sound lines still contradict each other in some way.
    """
    try:
        few = infer_few(blocks)
        if few is not None and agrees(few, blocks):
            return few
        if few is None or not _begins_badly(few, blocks[0]):
            schema = infer_lines([block.data for block in blocks])
            if schema.names:
                return schema
    except pa.ArrowInvalid:
        pass
    return _of_sound_lines([(lines, np.arange(lines.count)) for lines in map(LineTable, blocks)])


def _begins_badly(few: pa.Schema, block: Block) -> bool:
    """Whether a block surely holds a line that contradicts what others told, or is none."""
    told, lines = _loose(few), LineTable(block)
    suspects = np.flatnonzero(line_reader(told, declared=True).kinds(lines) == SUSPECT)
    judge = _judge(told, block)
    return not all(map(judge, lines.each(suspects[:FEW_SUSPECTS])))


def _of_sound_lines(filled: Sound) -> pa.Schema:
    try:
        return _inferred(_agreeing(filled, FEW_VOTERS))
    except (NoSchemaError, pa.ArrowInvalid):
        pass
    sound = _fitting(filled, pa.schema([]), _is_inferable)
    try:
        return _inferred(sound)
    except pa.ArrowInvalid:
        pass
    try:
        return _inferred(_agreeing(sound, VOTERS))
    except pa.ArrowInvalid:
        return _voted(sound, 1)


def _judge(told: pa.Schema, block: Block) -> Callable[[bytes], bool]:
    """Tells whether a line agrees with a schema."""
    form = Form(told, declared=True)
    return lambda line: mismatch(Line(block, 0, 0, 0, line), form) is None


def _is_inferable(line: bytes) -> bool:
    return is_json(line) and bool(_inferable([line]))


def _agreeing(found: Sound, voters: int) -> Sound:
    """The lines that agree with what most of some of them say."""
    count = sum(len(good) for _, good in found)
    told = _loose(_voted(found, 1 + count // voters))
    return _fitting(found, told, _judge(told, found[0][0].block))


def _fitting(found: Sound, told: pa.Schema, judge: Callable[[bytes], bool]) -> Sound:
    """Those of some lines that fit a schema, as a scan tells, or the judge of those it suspects."""
    fitting: Sound = []
    for lines, wanted in found:
        kinds = line_reader(told, declared=True).kinds(lines)
        suspects = wanted[kinds[wanted] == SUSPECT]
        for index, line in zip(suspects.tolist(), lines.each(suspects), strict=True):
            if judge(line):
                kinds[index] = ROW
        fitting.append((lines, wanted[kinds[wanted] == ROW]))
    return fitting


def _inferred(sound: Sound) -> pa.Schema:
    return _told_by_few(sound) or _told_by_all(sound)


def _told_by_few(sound: Sound) -> pa.Schema | None:
    """What the first lines say, if all others agree: to look at those is cheaper."""
    lines, good = next(((lines, good) for lines, good in sound if len(good)), (None, None))
    if lines is None or good is None:
        return None
    few = good[: int(np.searchsorted(lines.starts[good], FEW_BYTES))]
    try:
        with lines.only(few) as data:
            schema = infer_lines([data.to_pybytes()])
    except pa.ArrowInvalid:
        return None
    reader = line_reader(schema, declared=False)
    agree = schema.names and all((reader.kinds(lines)[g] != SUSPECT).all() for lines, g in sound)
    return schema if agree else None


def _told_by_all(sound: Sound) -> pa.Schema:
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
    voters = [line for lines, good in sound for line in lines.each(good[::step])]
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
