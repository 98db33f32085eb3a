"""What is read without Arrow: lines that it takes, all that are usual, and as it reads them."""

import ctypes
import ctypes.util
import json
import mmap
import re
import subprocess
import sys
from datetime import UTC, date, datetime

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.formats.jsonl_errors import Form, Line, is_json
from nvisy_connectors.object.formats.jsonl_library import LIBRARY
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_rows import BLANK, ROW, SUSPECT, LineReader, is_compiled
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import LineTable

SCHEMA = pa.schema({
    "id": pa.int64(),
    "small": pa.int8(),
    "count": pa.uint64(),
    "score": pa.float64(),
    "single": pa.float32(),
    "price": pa.decimal128(10, 2),
    "at": pa.timestamp("ms", "UTC"),
    "day": pa.timestamp("ns"),
    "born": pa.date32(),
    "text": pa.string(),
    "ok": pa.bool_(),
    "none": pa.null(),
    "tags": pa.list_(pa.string()),
    "in": pa.struct({"x": pa.float64(), "y": pa.list_(pa.struct({"z": pa.int16()}))}),
    'odd "name\\': pa.string(),
    "": pa.int32(),
})


def table(made: list[bytes]) -> LineTable:
    data = bytearray().join(line + b"\n" for line in made)
    info = ObjectInfo(key="x", size=len(data), version="1", modified=None)
    return LineTable(Block(info, 0, len(data), 1, data))


def kinds(made: list[bytes], schema=SCHEMA, *, declared=False) -> list[int]:
    return LineReader(schema, declared=declared).kinds(table(made)).tolist()


def is_row(line: bytes, schema=SCHEMA, *, declared=False) -> bool:
    """Whether Arrow takes a line as one row of the schema."""
    (block,) = (table([line]).block,)
    return Form(schema, declared=declared).fits([Line(block, 0, 1, 0, line)])


def test_the_library_was_compiled():
    assert is_compiled()


def nullable(values):
    return st.none() | values


texts = st.text(max_size=12)
VALUES = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(-128, 127),
    "count": st.integers(0, 2**64 - 1),
    "score": st.floats(allow_nan=False, allow_infinity=False, max_value=1e307, min_value=-1e307)
    | st.integers(-(2**63), 2**70),
    "single": st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120),
    "price": st.decimals(-(10**7), 10**7, places=2).map(str)
    | st.decimals(0, 10**7, places=1).map(float),
    "at": st
    .datetimes(*(datetime.fromisoformat(day) for day in ("1700-01-01", "2199-12-31")))
    .filter(lambda moment: (moment.month, moment.day) != (2, 29))
    .map(lambda moment: moment.replace(tzinfo=UTC).isoformat(timespec="milliseconds")),
    "day": st
    .dates(date(1700, 1, 1), date(2199, 12, 31))
    .filter(lambda day: (day.month, day.day) != (2, 29))
    .map(str),
    "born": st
    .dates(date(1700, 1, 1), date(2199, 12, 31))
    .filter(lambda day: (day.month, day.day) != (2, 29))
    .map(str),
    "text": texts,
    "ok": st.booleans(),
    "none": st.none(),
    "tags": st.lists(nullable(texts), max_size=3),
    "in": st.fixed_dictionaries({
        "x": nullable(st.floats(-1e9, 1e9)),
        "y": nullable(st.lists(st.fixed_dictionaries({"z": st.integers(-(2**15), 2**15 - 1)}))),
    }),
    'odd "name\\': texts,
    "": st.integers(-(2**31), 2**31 - 1),
}
records = st.fixed_dictionaries(
    {}, optional={name: nullable(found) for name, found in VALUES.items()}
)


@st.composite
def lines(draw):
    value = draw(records)
    names = draw(st.permutations(list(value)))
    return json.dumps(
        {name: value[name] for name in names},
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(", ", ": "), (",", ":"), (" ,\t", " : ")])),
    ).encode("utf-8", "replace")


@settings(max_examples=400, deadline=None)
@given(line=lines())
@example(line=b"{}")
@example(line=b' { "id" : -0 , "score":1e5,"in":{"y":[ ]} }\t\r')
@example(line=b'{"score": 1e-300, "text": "\\ud83d\\ude00 \\u00e9"}')
@example(line=b'{"at": "2026-01-31 10:00:00.5+02:00"}')
def test_what_is_written_in_the_usual_way_is_a_row(line):
    assert kinds([line]) == [ROW]
    assert is_row(line)


ESCAPED_NAME = re.compile(rb'"(?:[^"\\]|\\.)*\\.(?:[^"\\]|\\.)*"\s*:')


@st.composite
def damaged(draw):
    line = bytearray(draw(lines()))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(line) - 1)) if line else 0
        piece = draw(
            st.binary(max_size=3)
            | st.sampled_from([
                b"9" * 19,
                b"e9",
                b"\\",
                b'"',
                b"\\u",
                b"\xed\xa0\x80",
                b"null",
                b"0",
            ])
            | st.sampled_from([b",", b":", b"{", b"}", b"[", b"]", b"-", b"."])
        )
        line[place : place + draw(st.integers(0, 3))] = piece
    return bytes(line).replace(b"\n", b"")


@settings(max_examples=1500, deadline=None)
@given(line=damaged(), declared=st.booleans())
@example(line=b'{"small": 128}', declared=True)
@example(line=b'{"small": -129}', declared=True)
@example(line=b'{"count": -0}', declared=True)
@example(line=b'{"count": 18446744073709551616}', declared=True)
@example(line=b'{"id": 99999999999999999999}', declared=True)
@example(line=b'{"id": 1.0}', declared=True)
@example(line=b'{"id": 1e2}', declared=True)
@example(line=b'{"id": 01}', declared=True)
@example(line=b'{"score": 1e309}', declared=True)
@example(line=b'{"other": 1e309}', declared=True)
@example(line=b'{"other": {"a": 1, "a": 2}}', declared=True)
@example(line=b'{"single": 9e38}', declared=True)
@example(line=b'{"price": "1.255"}', declared=True)
@example(line=b'{"price": 1.255}', declared=True)
@example(line=b'{"at": "2026-02-30"}', declared=True)
@example(line=b'{"at": "2026-01-31T10:00:00.1234"}', declared=True)
@example(line=b'{"at": "2026-01-31Z"}', declared=True)
@example(line=b'{"day": "2263-01-01"}', declared=True)
@example(line=b'{"text": "\\ud800"}', declared=True)
@example(line=b'{"text": "\\ud800\\ud800"}', declared=True)
@example(line=b'{"text": "\\ud800\\u0041"}', declared=True)
@example(line=b'{"text": "\\udc00\\udc00"}', declared=True)
@example(line=b'{"text": "\\u0000"}', declared=True)
@example(line=b'{"text": "\xc0\x80"}', declared=True)
@example(line=b'{"text": "\xe0\x9f\xbf"}', declared=True)
@example(line=b'{"text": "\xed\xa0\x80"}', declared=True)
@example(line=b'{"text": "\xf0\x8f\xbf\xbf"}', declared=True)
@example(line=b'{"text": "\xf4\x90\x80\x80"}', declared=True)
@example(line=b'{"text": "\xf5\x80\x80\x80"}', declared=True)
@example(line=b'{"text": "\xe2\x82"}', declared=True)
@example(line=b'{"odd \\"name\\": "a"}', declared=True)
@example(line=b'{"id": 1, "id": 2}', declared=True)
@example(line=b'{"none": 1}', declared=True)
@example(line=b'{"other": [1, {"a": "b"}]}', declared=False)
@example(line=b'{"other": ' + b"[" * 300 + b"]" * 300 + b"}", declared=True)
@example(line=b"{} {}", declared=True)
@example(line=b"{}\x00", declared=True)
def test_what_is_called_a_row_is_taken_by_arrow(line, declared):
    (kind,) = kinds([line], declared=declared)
    if kind == BLANK:
        assert not line.strip(b" \t\r")
    if kind == ROW:
        assert is_row(line, declared=declared)


@settings(max_examples=300, deadline=None)
@given(made=st.lists(lines() | damaged(), max_size=8), declared=st.booleans())
@example(made=[b'{"\\u0069d": 1}', b'{"id": 2}'], declared=True)
@example(made=[b'{"in": {"x": 1, "y": [{"z": 1}, {}, null]}, "id": x}', b"{}"], declared=True)
@example(made=[b'{"tags": ["\\u0041\\n\\/", null], "text": "\\""}', b"{]"], declared=True)
@example(
    made=[b'{"at": "2026-01-31T10:00:00.5+02:30"}', b'{"at": "1969-12-31 23:59:59-11:15"}'],
    declared=True,
)
@example(
    made=[rb'{"text": "\u0000\u007f\u0080\u07ff\u0800\uffff\ud800\udc00\udbff\udfff"}'],
    declared=True,
)
def test_rows_are_those_that_arrow_reads(made, declared):
    """Also behind lines that break off in the midst, of which nothing is left."""
    lines = table(made)
    kinds, rows = LineReader(SCHEMA, declared=declared).read(lines)
    rows.validate(full=True)
    sure = np.flatnonzero(kinds == ROW)
    with lines.only(sure) as data:
        expected = read_rows(data, SCHEMA, declared=declared)
    assert rows.equals(expected)


@settings(max_examples=500, deadline=None)
@given(
    number=st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
@example(number="9007199254740993")
@example(number="0.9007199254740993")
@example(number="9007199254740993e1")
@example(number="3e23")
@example(number="0.1e-22")
@example(number="-0.0")
@example(number="4.35")
@example(number="2.2250738585072011e-308")
def test_floats_are_the_nearest_ones(number):
    schema = pa.schema({"x": pa.float64(), "y": pa.float32()})
    line = b'{"x": %b}' % number.encode()
    (kind,), rows = LineReader(schema, declared=False).read(table([line]))
    if kind == ROW:
        (found,) = rows.column("x").to_pylist()
        assert (found, str(found)) == (float(number), str(float(number)))
    (kind,), rows = LineReader(schema, declared=False).read(table([line.replace(b"x", b"y")]))
    if kind == ROW:
        assert rows.column("y").equals(pa.array([number]).cast(pa.float32()))


def test_memory_is_released():
    lines = table([b'{"id": 1, "text": "%b", "in": {"y": [{"z": 3}]}}' % (b"x" * 50)] * 20_000)
    reader = LineReader(SCHEMA, declared=False)
    process = psutil.Process()
    for number in range(60):
        rows = reader.read(lines)[1]
        kept = rows.column("id")
        if number == 10:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 30 << 20
    del rows
    assert kept.to_pylist() == [1] * 20_000
    assert reader._scratch
    reader.let_go()
    assert not reader._scratch


@settings(max_examples=300, deadline=None)
@given(line=damaged())
@example(line=b'{"odd \\"n\\\\": null, "id": null}')
def test_of_no_columns_every_json_object_is_a_row(line):
    (kind,) = kinds([line], pa.schema([]), declared=True)
    # Fields that occur twice are not looked for there.
    assert kind != ROW or isinstance(json.loads(line), dict)
    unsure = b"e" in line.lower() or b"\\u" in line or ESCAPED_NAME.search(line)
    assert kind == ROW or not is_json(line) or unsure


@settings(deadline=None)
@given(
    made=st.lists(st.sampled_from([b"{}", b"", b" \r", b'{"id": 1}', b"oops", b"{"]), max_size=9)
)
def test_each_line_is_judged_by_itself(made):
    told = {b"{}": ROW, b'{"id": 1}': ROW, b"": BLANK, b" \r": BLANK}
    found = kinds(made)
    assert found == [told.get(line, SUSPECT) for line in made]


def test_many_fields_in_any_order():
    schema = pa.schema({f"f{number}": pa.int64() for number in range(1000)})
    names = list(schema.names)
    usual = json.dumps(dict.fromkeys(names, 1)).encode()
    turned = json.dumps(dict.fromkeys(reversed(names), 1)).encode()
    twice = usual[:-1] + b', "f700": 2}'
    assert kinds([usual, turned, twice], schema) == [ROW, ROW, SUSPECT]


def test_without_the_library_every_line_is_left_to_judgement(monkeypatch):
    monkeypatch.setattr(jsonl_rows, "is_compiled", lambda: False)
    assert kinds([b"{}", b" ", b"x"]) == [SUSPECT, BLANK, SUSPECT]


GUARDED = """
import ctypes, json, mmap, random, sys
import numpy as np
sys.path[:0] = {path!r}
from test_jsonl_rows import SCHEMA, Guard
from nvisy_connectors.object.formats import jsonl_rows

guard = Guard(8192)
reader = jsonl_rows.LineReader(SCHEMA, declared=True)
line = json.dumps({{
    "id": 12345, "other": [1.5e3, {{"a": "\\\\u00e9\\\\ud83d\\\\ude00"}}],
    "text": "some \\u00e9\\U0001f600 text",
    "at": "2026-01-31T10:00:00.123+01:00", "price": "12.25", "ok": False, "none": None,
}}, ensure_ascii=False).replace("\\\\\\\\", "\\\\").encode()
draw = random.Random(7)
seen = set()
for size in range(len(line) + 1):
    start, noise = line[:size], draw.randbytes(size)
    for data in (start, line[size:], noise, b'{{"text": "' + start, b'{{"text": "' + noise):
        seen |= {{(made, guard.scan(reader, data, made=made)) for made in (False, True)}}
assert len(seen) == 6, seen
print("held")
"""


class Guard:
    """Memory right after which nothing may be read."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.size = -(-size // page) * page
        self.memory = mmap.mmap(-1, self.size + page)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        assert not libc.mprotect(
            ctypes.c_void_p(self.address + self.size), ctypes.c_size_t(page), 0
        )

    def scan(self, reader: LineReader, data: bytes, *, made: bool) -> int:
        """The kind of a line whose last byte, the zero after it, is the last that may be read."""
        start = self.size - len(data) - 1
        self.memory[start : self.size] = data + b"\0"
        columns = (jsonl_rows._Column * len(reader._nodes))() if made else None
        starts = np.array([0, len(data)], np.int64)
        return int(reader._read_at(self.address + start, starts, columns)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="protects memory as Linux does")
def test_nothing_is_read_beyond_the_end():
    code = GUARDED.format(path=[path for path in sys.path if "tests" in path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=180
    )
    assert (done.returncode, done.stdout.strip()) == (0, "held"), done.stderr


def test_the_layout_is_that_of_the_source():
    """Names and numbers that both files repeat."""
    names = ("jsonl_rows.c", "jsonl_lexing.h", "jsonl_columns.h")
    source = "".join(LIBRARY.with_name(name).read_text() for name in names)
    enums = re.findall(r"enum \{ ([A-Z, ]+) \};", source)
    assert [name.strip() for name in enums[0].split(",")] == ["SUSPECT", "ROW", "BLANK"]
    for number, name in enumerate(enums[1].split(", ")):
        assert getattr(jsonl_rows, f"_{name}") == number
    sizes = {"uint8_t": 1, "uint16_t": 2, "int32_t": 4, "uint64_t": 8, "int64_t": 8}
    for name in ("Node", "Column"):
        (layout,) = re.findall(rf"typedef struct \{{([^}}]*)\}} {name};", source)
        told = [
            (field, 8 if pointer else sizes[kind])
            for kind, pointer, field in re.findall(
                r"^    (?:const )?(\w+) (\*?)(\w+);", layout, re.MULTILINE
            )
        ]
        found = getattr(jsonl_rows, f"_{name}")._fields_
        assert told == [(field, ctypes.sizeof(kind)) for field, kind in found]


@pytest.mark.parametrize("kind", [pa.float16(), pa.decimal256(50, 2), pa.large_string()])
def test_types_that_are_left_to_arrow(kind):
    assert LineReader(SCHEMA, declared=True).makes_rows
    assert not LineReader(pa.schema({"x": pa.list_(kind)}), declared=True).makes_rows


def test_words():
    made = [b'{"ok": tru}', b'{"ok": true}', b'{"ok": falsey}', b'{"none": nul', b'{"ok": n}']
    assert kinds(made) == [SUSPECT, ROW, SUSPECT, SUSPECT, SUSPECT]
