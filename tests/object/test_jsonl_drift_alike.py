"""Lines that drift are the same rows whoever rescues them, and what fits is as if it came alone."""

import json
from typing import Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.formats.jsonl_drift import rescuer
from nvisy_connectors.object.formats.jsonl_rescued import RESCUED
from nvisy_connectors.object.formats.jsonl_salvage import salvage
from nvisy_connectors.object.formats.line_blocks import Block

SCHEMA = pa.schema({
    "i": pa.int64(),
    "u": pa.uint8(),
    "f": pa.float64(),
    "g": pa.float32(),
    "d": pa.decimal128(6, 2),
    "t": pa.timestamp("us"),
    "born": pa.date32(),
    "s": pa.string(),
    "in": pa.struct({"x": pa.float64(), "y": pa.int8()}),
    "list": pa.list_(pa.struct({"x": pa.float64()})),
})

Members = list[tuple[str, str]]


def written(members: Members) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"


def read(texts: list[str], *, compiled: bool, declared: bool) -> tuple[dict[int, Any], Any]:
    """The rows of lines by their number, with what was rescued; and the bad lines."""
    data = bytearray("\n".join(texts).encode())
    block = Block(ObjectInfo("x", len(data), "1", None), 0, len(data), 1, data)
    jsonl_rows.line_reader.cache_clear()
    jsonl_rows.line_reader(SCHEMA, declared=declared).makes_rows = compiled
    found = salvage(block, SCHEMA, declared=declared, rescues=True)
    made = rescuer(SCHEMA, declared=declared)(found)
    jsonl_rows.line_reader.cache_clear()
    rows = made.rows.to_pylist()
    for row in rows:
        rest = row[RESCUED]
        row[RESCUED] = rest and json.loads(rest, object_pairs_hook=list, parse_int=float)
    bad = {one.line.number: (one.reason, one.drifted) for one in made.bad}
    return dict(zip(made.numbers.tolist(), rows, strict=True)), bad


scalars = st.sampled_from([
    *("-0", "0", "-0.0", "-0e3", "1", "-1", "1.5", "9e308", "300", "null", "true", '"x"', '"1.5"'),
    '"2026-01-01"',
])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda found: f"[{','.join(found)}]"),
        st.lists(st.tuples(st.sampled_from(["x", "y", "\\u0078"]), inner), max_size=3).map(written),
    ),
    max_leaves=4,
)
lines = st.lists(st.tuples(st.sampled_from([*SCHEMA.names, "new", "z"]), values), max_size=4)


@settings(max_examples=300, deadline=None)
@given(found=st.lists(lines, max_size=4), declared=st.booleans())
@example(found=[[("f", "-0"), ("i", '"x"')]], declared=True)
@example(
    found=[[("u", "-0"), ("i", "-0"), ("in", '{"x":-0,"y":0.5}'), ("g", "-0.0")]], declared=False
)
@example(found=[[("new", '{"x":1,"x":2}')]], declared=False)
@example(found=[[("new", '{"x":1,"\\u0078":2}')], [("new", '[{"x":1,"x":2}]')]], declared=False)
@example(found=[[("i", '{"x":1,"x":2}')], [("i", '[{"x":1,"x":2}]')]], declared=True)
@example(found=[[("z", "1"), ("z", "2"), ("i", '"x"')]], declared=True)
@example(found=[[("z", '{"x":1,"x":2}'), ("t", '"x"')]], declared=True)
@example(found=[[("list", '[{"x":1,"y":2,"y":3},7]')]], declared=True)
@example(found=[[("list", '[{"x":1,"y":2,"y":3}]')], [("list", '[{"x":1,"x":2}]')]], declared=True)
@example(found=[[("in", '{"x":1,"z":2,"z":3}'), ("i", '"x"')]], declared=True)
@example(found=[[("i", '"x"'), ("i", "1")], [("i", "1"), ("i", '"x"')]], declared=True)
@example(found=[[("in", '{"x":"a","x":1}')], [("in", '{"x":1}'), ("in", "2")]], declared=True)
def test_it_is_all_one_who_rescues(found, declared):
    texts = list(map(written, found))
    rows, bad = read(texts, compiled=True, declared=declared)
    assert repr((rows, bad)) == repr(read(texts, compiled=False, declared=declared))
    for number, members in enumerate(found, 1):
        if number in bad:
            assert "occurs twice" in bad[number][0]
            continue
        rescued = [name for name, _ in rows[number][RESCUED] or []]
        for name, value in members:
            if name in SCHEMA.names and name not in rescued:
                alone, _ = read([written([(name, value)])], compiled=True, declared=declared)
                assert repr(rows[number][name]) == repr(alone[1][name])
            assert name not in SCHEMA.names or [one for one, _ in members].count(name) == 1
