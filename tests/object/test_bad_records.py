"""Records that cannot be read: exactly the bad ones are rejected, wherever reading stops."""

import io
import json
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, lines

from nvisy_connectors.object.formats import jsonl_parse, jsonl_salvage, jsonl_sieve
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import DataError
from nvisy_dagster.sdk.envelope import payload

pytestmark = pytest.mark.anyio

ROWS = 30_000


def source(path, kind="jsonl", **params):
    found = LocalSource(LocalSourceParams(path=str(path), format=kind, **params), node_id="read")
    found.bad_records = "reject"
    return found


def rows_of(batches):
    return [row for batch in batches for row in payload(batch.data).to_pylist()]


def places_of(batches):
    """Where each good record came from."""
    return [
        (value["uri"], value["position"])
        for batch in batches
        for value in batch.data.column("_source").to_pylist()
    ]


def rejected_in(batches):
    return [bad for batch in batches for bad in batch.rejected]


def good_line(number: int) -> bytes:
    value = {"id": number, "name": f"n {number} ü", "score": number / 8, "in": {"tags": ["a"]}}
    return json.dumps(value, ensure_ascii=number % 2 == 0).encode()


BREAKS = {
    "cut": lambda line: line[: len(line) // 2],
    "colon": lambda line: line.replace(b'": ', b'" ', 1),
    "encoding": lambda line: line.replace(b"n ", b"\xff\xfe", 1),
    "text": lambda _: b"oops",
    "null": lambda _: b" null ",
    "array": lambda line: b"[" + line + b"]",
    "two": lambda line: line + b" " + line,
    "type": lambda line: line.replace(b'"id": ', b'"id": true, "x": ', 1),
    "nested type": lambda line: line.replace(b'["a"]', b'[["a"]]', 1),
    "number": lambda line: line.replace(b'"score": ', b'"score": 1e999, "score2": ', 1),
    "twice": lambda line: line[:-1] + b', "id": 3}',
    "open": lambda line: line[:-1],
    "closed": lambda line: line + b"}",
}


def spoilt(rate: float, seed: int) -> tuple[list[bytes], dict[int, bytes]]:
    """Lines some of which are bad, and those by their number."""
    draw = random.Random(seed)
    made, bad = [], {}
    for number in range(1, ROWS + 1):
        line = good_line(number)
        if draw.random() < rate:
            line = draw.choice(list(BREAKS.values()))(line)
            bad[number] = line
        made.append(line)
    return made, bad


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("params", [{}, {"batch_bytes": 40_000, "batch_rows": 700}])
async def test_the_rejected_are_exactly_the_injected(tmp_path, rate, params):
    made, bad = spoilt(rate, seed=int(1 / rate))
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(made) + b"\n")
    batches = await drain(source(path, **params))
    found = rejected_in(batches)
    assert {one.position: one.data for one in found} == bad
    assert len(found) == len(bad)
    starts = {1: 0}
    for number, line in enumerate(made, 1):
        starts[number + 1] = starts[number] + len(line) + 1
    for one in found:
        assert one.uri == path.as_uri()
        assert one.metadata == {"line": one.position, "byte": starts[one.position]}
        assert one.reason.startswith(f"line {one.position} (byte {starts[one.position]}): ")
        assert "None" not in one.reason
    good = [number for number in range(1, ROWS + 1) if number not in bad]
    assert [place for _, place in places_of(batches)] == good
    assert rows_of(batches) == [json.loads(made[number - 1]) for number in good]


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("with_duckdb", [True, False])
@pytest.mark.parametrize("columns", [None, {"id": "int64", "score": "float64"}])
async def test_every_kind_of_bad_line(tmp_path, monkeypatch, name, with_duckdb, columns):
    if not with_duckdb:
        monkeypatch.setattr(jsonl_sieve, "_has_duckdb", lambda: False)
    if columns:
        columns = columns | {"in": "struct<tags: list<string>>"}
    made = [good_line(number) for number in range(1, 301)]
    for place in (0, 100, 101, 299):
        made[place] = BREAKS[name](made[place])
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\r\n".join(made))
    batches = await drain(source(path, columns=columns))
    assert [one.position for one in rejected_in(batches)] == [1, 101, 102, 300]
    assert {one.tag for one in rejected_in(batches)} <= {"format", "encoding", "validation"}
    assert len(rows_of(batches)) == 296


any_line = st.one_of(
    st.integers(0, 99).map(good_line),
    st.tuples(st.sampled_from(sorted(BREAKS)), st.integers(0, 99)).map(
        lambda drawn: BREAKS[drawn[0]](good_line(drawn[1]))
    ),
    st.sampled_from([b"", b"  "]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    made=st.lists(st.lists(any_line, max_size=12), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 400), st.integers(1, 6)),
    others=st.tuples(st.integers(1, 400), st.integers(1, 6)),
    declared=st.booleans(),
)
async def test_every_line_is_in_one_place_wherever_it_resumes(
    tmp_path, made, sizes, others, declared
):
    columns = None
    if declared:
        columns = {"id": "int64", "name": "string", "score": "float64"}
        columns["in"] = "struct<tags: list<string>>"
    for number in range(3):
        (tmp_path / f"{number}.jsonl").unlink(missing_ok=True)
    for number, some in enumerate(made):
        (tmp_path / f"{number}.jsonl").write_bytes(b"\n".join(some))
    places = [
        ((tmp_path / f"{number}.jsonl").as_uri(), place)
        for number, some in enumerate(made)
        for place, line in enumerate(some, 1)
        if line.strip()
    ]

    def reader(cut):
        return source(tmp_path, batch_bytes=cut[0], batch_rows=cut[1], columns=columns)

    whole = await drain(reader(sizes))
    assert sorted(places_of(whole) + rejected_places(whole)) == places
    for at, batch in enumerate(whole):
        assert batch.data.num_rows + len(batch.rejected) <= sizes[1]
        again = type(batch.cursor).model_validate_json(batch.cursor.model_dump_json())
        rest = await drain(reader(others), again)
        if declared or again.columns:
            assert places_of(rest) == places_of(whole[at + 1 :])
            assert rejected_in(rest) == rejected_in(whole[at + 1 :])
        else:  # nothing was read so far but bad lines
            assert sorted(places_of(rest) + rejected_places(rest)) == sorted(
                places_of(whole[at + 1 :]) + rejected_places(whole[at + 1 :])
            )


def rejected_places(batches):
    return [(one.uri, one.position) for one in rejected_in(batches)]


@pytest.mark.parametrize("with_duckdb", [True, False])
async def test_fields_that_the_first_lines_did_not_have(tmp_path, monkeypatch, with_duckdb):
    if not with_duckdb:
        monkeypatch.setattr(jsonl_sieve, "_has_duckdb", lambda: False)
    monkeypatch.setattr("nvisy_connectors.object.formats.jsonl.SAMPLE_BYTES", 1000)
    made = [good_line(number) for number in range(1, 301)]
    made[200] = made[200].replace(b'"id"', b'"di"', 1)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(made))
    (bad,) = rejected_in(await drain(source(path, batch_bytes=2000)))
    assert bad.position == 201
    assert "field 'di' is not in the lines from which the columns were inferred" in bad.reason


async def test_a_bad_first_line_does_not_make_the_others_bad(tmp_path):
    path = tmp_path / "x.jsonl"
    first = [{"a": "one", "in": {"b": "x"}}, {"a": {"b": 1}}]
    path.write_bytes(lines([*first, *({"a": i, "in": {"b": i / 2}} for i in range(9000))]))
    batches = await drain(source(path))
    assert [one.position for one in rejected_in(batches)] == [1, 2]
    assert batches[0].data.schema.field("a").type == pa.int64()
    assert sum(batch.data.num_rows for batch in batches) == 9000


async def test_more_bad_lines_than_are_told_in_an_error(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"oops\n" * 5000 + b'{"a": 2}\n')
    batches = await drain(source(path))
    assert [one.position for one in rejected_in(batches)] == list(range(2, 5002))
    assert rows_of(batches) == [{"a": 1}, {"a": 2}]


async def test_nothing_but_bad_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"these\nare\n\nwords")
    batches = await drain(source(path))
    assert [(one.position, one.data) for one in rejected_in(batches)] == [
        (1, b"these"),
        (2, b"are"),
        (4, b"words"),
    ]


async def test_a_sample_of_nothing_but_bad_lines_is_another_format(tmp_path, monkeypatch):
    monkeypatch.setattr("nvisy_connectors.object.formats.jsonl.SAMPLE_BYTES", 10_000)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"words\n" * 4000)
    with pytest.raises(DataError, match=r"x\.jsonl: none of the first lines is a JSON object"):
        await drain(source(path, batch_bytes=5000))


@pytest.mark.parametrize("batch_bytes", [10, 64, 900])
@pytest.mark.parametrize("end", [b"", b"\n", b'\n{"a": 3}'])
async def test_a_line_that_is_too_long(tmp_path, monkeypatch, batch_bytes, end):
    monkeypatch.setattr("nvisy_connectors.object.formats.jsonl.MAX_LINE_BYTES", 1000)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": "' + b"x" * 5000 + b'"}' + end)
    batches = await drain(source(path, batch_bytes=batch_bytes, columns={"a": "int64"}))
    (bad,) = rejected_in(batches)
    assert (bad.position, bad.data, bad.tag) == (3, None, "too_large")
    assert bad.metadata["byte"] == 18
    assert [row["a"] for row in rows_of(batches)] == [1, 2, *([3] if b"3" in end else [])]
    for place, batch in enumerate(batches):
        rest = await drain(source(path, batch_bytes=77, columns={"a": "int64"}), batch.cursor)
        assert rejected_in(rest) == rejected_in(batches[place + 1 :])
        assert rows_of(rest) == rows_of(batches[place + 1 :])


async def test_texts_that_are_not_utf8(tmp_path):
    for number in range(20):
        data = b"caf\xe9" if number in {0, 7, 19} else f"text {number}".encode()
        (tmp_path / f"{number:02}.txt").write_bytes(b"x" * 101 if number == 5 else data)
    batches = await drain(source(tmp_path, "text", batch_rows=3, max_object_bytes=100))
    found = rejected_in(batches)
    assert [one.uri[-6:] for one in found] == ["00.txt", "05.txt", "07.txt", "19.txt"]
    assert [one.data for one in found] == [b"caf\xe9", None, b"caf\xe9", b"caf\xe9"]
    assert [one.tag for one in found] == ["encoding", "too_large", "encoding", "encoding"]
    assert "not UTF-8 text: unexpected end of data at byte 3" in found[0].reason
    assert len(rows_of(batches)) == 16
    assert all(batch.data.schema.equals(batches[0].data.schema) for batch in batches)


def parquet(rows: int, start: int = 0) -> bytes:
    file = io.BytesIO()
    table = pa.table({"n": pa.array(range(start, start + rows)), "t": ["x" * 50] * rows})
    pq.write_table(table, file, row_group_size=100, compression="zstd", use_dictionary=False)
    return file.getvalue()


async def test_a_corrupt_row_group_is_one_bad_record(tmp_path):
    data = bytearray(parquet(1000))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(4).column(0)
    for place in range(group.data_page_offset + 30, group.data_page_offset + 90):
        data[place] ^= 0xFF
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / "b.parquet").write_bytes(b"not a parquet file at all")
    (tmp_path / "c.parquet").write_bytes(parquet(10, start=1000))
    batches = await drain(source(tmp_path, "parquet", batch_rows=30))
    first, second = rejected_in(batches)
    assert (first.position, first.data, first.tag) == (400, None, "format")
    assert "rows 400 to 499" in first.reason
    assert (second.uri[-9:], second.position) == ("b.parquet", None)
    numbers = [row["n"] for row in rows_of(batches)]
    assert numbers == [*range(400), *range(500, 1010)]
    for place, batch in enumerate(batches):
        rest = await drain(source(tmp_path, "parquet", batch_rows=30), batch.cursor)
        assert rejected_in(rest) == rejected_in(batches[place + 1 :])
        assert rows_of(rest) == rows_of(batches[place + 1 :])


async def test_a_corrupt_first_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"torn")
    (tmp_path / "b.parquet").write_bytes(parquet(10))
    batches = await drain(source(tmp_path, "parquet"))
    assert [one.position for one in rejected_in(batches)] == [None]
    assert len(rows_of(batches)) == 10


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
@pytest.mark.parametrize("with_duckdb", [True, False])
async def test_bad_lines_do_not_make_the_others_be_parsed_again(
    tmp_path, monkeypatch, kind, with_duckdb
):
    if not with_duckdb:
        monkeypatch.setattr(jsonl_sieve, "_has_duckdb", lambda: False)
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
    assert len(judged) < 2 * len(bad) + 600


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
