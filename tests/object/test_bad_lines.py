"""The search for bad JSON lines: what it costs, and that it treats every line alike."""

import random
import re

import pytest
from bad_lines import BREAKS, ROWS, good_line, places_of, rejected_in, rows_of, source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain

from nvisy_connectors.object.formats import jsonl_parse, jsonl_salvage

pytestmark = pytest.mark.anyio

MANY = {
    "syntax": ("cut", "colon", "encoding", "text", "open"),
    "types": ("type", "nested type", "a text for a number", "a number for a text"),
    "range": ("number", "integer"),
}
MANY["mixed"] = tuple(name for names in MANY.values() for name in names)
MORE_BREAKS = BREAKS | {
    "a text for a number": lambda line: re.sub(rb'"score": [0-9.]+', b'"score": "x"', line),
    "a number for a text": lambda line: re.sub(rb'"name": "[^"]*"', b'"name": 5', line),
    "integer": lambda line: re.sub(rb'"id": [0-9]+', b'"id": 12345678901234567890', line),
}


@pytest.mark.parametrize("kind", MANY)
async def test_bad_lines_do_not_make_the_others_be_parsed_again(tmp_path, monkeypatch, kind):
    draw = random.Random(5)
    made, bad = [], set()
    for number in range(1, ROWS + 1):
        line = good_line(number)
        if draw.random() < 0.01:
            line = MORE_BREAKS[draw.choice(MANY[kind])](line)
            bad.add(number)
        made.append(line)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(made) + b"\n")
    parsed, judged = [], []
    read, judge = jsonl_parse._read, jsonl_salvage.mismatch

    def counted(data, *others):
        parsed.append(len(data))
        return read(data, *others)

    def counted_judge(*given):
        judged.append(given)
        return judge(*given)

    monkeypatch.setattr(jsonl_parse, "_read", counted)
    monkeypatch.setattr(jsonl_salvage, "mismatch", counted_judge)
    columns = {"id": "int64", "name": "string", "score": "float64"}
    columns["in"] = "struct<tags: list<string>>"
    batches = await drain(source(path, columns=columns, batch_bytes=400_000))
    assert {one.position for one in rejected_in(batches)} == bad
    # The first two blocks, in two threads, are tried as they are.
    size = path.stat().st_size
    assert sum(parsed) < size + 2.5 * 400_000
    assert len(judged) < 1.1 * len(bad) + 10


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    line=st.sampled_from([
        b'{"a": 1, "z": 2, "z": 3}',
        b'{"a": 1, "z": {"q": 1, "q": 2}}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 10e308}',
        b'{"a": 1e309}',
        b'{"a": 1e-999}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"z": -Infinity, "i": 1}',
        b'{"z": 1e999}',
        b'{"z": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"i": Infinity}',
        b'{"i": 1.0}',
        b'{"i": -0}',
        b'{"u": -0}',
        b'{"u": 256}',
        b'{"i": 9223372036854775807}',
        b'{"i": 9223372036854775808}',
        b'{"i": -9223372036854775808}',
        b'{"d": "1.25"}',
        b'{"d": 1.25}',
        b'{"d": 1.2525}',
        b'{"f": 1e39}',
        b'{"t": "2026-01-01T00:00:00Z"}',
        b'{"t": "yesterday"}',
        b'{"s": "a\tb"}',
        b'{"s": "\\ud800"}',
        b'{"s": "\xef\xbb\xbf"}',
        b'{"a": 01}',
        b'{"a" : 1 , "i":\t2}',
        b'{"nested": [1], "a": {}}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"f": 9e38}',
        b'{"a": 9e308}',
        b'{"z": 9e308, "a": Infinity}',
        b"\x0c",
    ]),
    before=st.integers(0, 40),
)
async def test_the_fate_of_a_line_does_not_depend_on_others(tmp_path, line, before):
    columns = {"a": "float64", "i": "int64", "s": "string", "u": "uint8", "f": "float32"}
    columns |= {"d": "decimal(10, 2)", "t": "timestamp[us, UTC]"}
    good = [b'{"a": 0.5, "i": 1, "s": "x", "z": 1}'] * 60
    alone, among = tmp_path / "alone", tmp_path / "among"
    alone.write_bytes(line)
    among.write_bytes(b"\n".join([b"oops", *good[:before], line, *good[before:], b'{"a": true}']))
    first = await drain(source(alone, columns=columns))
    second = await drain(source(among, columns=columns))
    place = before + 2
    fates = {one.position for one in rejected_in(second)}
    assert fates - {place} == {1, 63}
    assert (place in fates) == bool(rejected_in(first))
    if place not in fates:
        at = [position for _, position in places_of(second)].index(place)
        assert repr(rows_of(second)[at]) == repr(rows_of(first)[0])
    else:
        assert rejected_in(first)[0].reason.partition(": ")[2] in {
            one.reason.partition(": ")[2] for one in rejected_in(second)
        }
