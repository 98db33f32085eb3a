"""JSON lines, as they are found in the field."""

import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, lines, records

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk import ConfigError, DataError, TransientError
from nvisy_dagster.sdk.envelope import payload
from nvisy_dagster.sdk.identity import root_ids

pytestmark = pytest.mark.anyio


def source(path, **params):
    return LocalSource(LocalSourceParams(path=str(path), format="jsonl", **params), node_id="read")


def write(path, data: bytes):
    path.write_bytes(data)
    return path


async def values(path, **params):
    return [
        row
        for batch in await drain(source(path, **params))
        for row in payload(batch.data).to_pylist()
    ]


@pytest.mark.parametrize(
    ("data", "wanted", "numbers"),
    [
        (b"", [], []),
        (b"\n \n\r\n", [], []),
        (b'{"a":1}\n{"a":2}\n', [1, 2], [1, 2]),
        (b'{"a":1}\n{"a":2}', [1, 2], [1, 2]),
        (b'{"a":1}\r\n{"a":2}\r\n', [1, 2], [1, 2]),
        (b'\n{"a":1}\n\n  {"a":2}  \n\n', [1, 2], [2, 4]),
        (b'\xef\xbb\xbf{"a":1}\n{"a":2}\n', [1, 2], [1, 2]),
        ('{"a":"ü\\u00fc\\n😀"}'.encode(), ["üü\n😀"], [1]),
        (b'{"a":"2026-01-01T00:00:00Z"}\n', ["2026-01-01T00:00:00Z"], [1]),
        (b'{"a":{"b":[{"c":1}]}}\n', [{"b": [{"c": 1}]}], [1]),
        (b'{"a":"}\\n{"}\n{"a":"{"}\n', ["}\n{", "{"], [1, 2]),
    ],
)
@pytest.mark.parametrize("batch_bytes", [1, 7, 8 << 20])
async def test_reads_lines_with_their_numbers(tmp_path, data, wanted, numbers, batch_bytes):
    path = write(tmp_path / "x.jsonl", data)
    found = await records(source(path, batch_bytes=batch_bytes))
    assert [row["a"] for row in found] == wanted
    assert [row["_source"]["position"] for row in found] == numbers
    assert all(row["_source"]["uri"] == path.as_uri() for row in found)
    if found:
        ids = root_ids(path.as_uri(), pa.array(numbers, pa.int64()).to_numpy())
        assert [row["_id"] for row in found] == [pair.tobytes() for pair in ids]
        assert found[0]["_created_at"].timestamp() == pytest.approx(path.stat().st_mtime, abs=1e-5)


json_values = st.fixed_dictionaries({
    "n": st.integers(-(2**40), 2**40) | st.none(),
    "s": st.text(max_size=20) | st.none(),
    "o": st.fixed_dictionaries({"l": st.lists(st.text(max_size=4), max_size=3)}) | st.none(),
})
ends = st.sampled_from(["\n", "\r\n", "\n\n", " \n"])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(json_values, ends), max_size=30),
    batch_bytes=st.integers(1, 200),
    batch_rows=st.integers(1, 10),
    raw=st.booleans(),
    unfinished=st.booleans(),
)
async def test_any_cut_gives_the_same_rows(
    tmp_path, rows, batch_bytes, batch_rows, raw, unfinished
):
    data = "".join(json.dumps(value, ensure_ascii=not raw) + end for value, end in rows).encode()
    path = write(tmp_path / "x.jsonl", data.rstrip() if unfinished else data)
    columns = {"n": "int64", "s": "string", "o": "struct<l: list<string>>"}
    read = source(path, batch_bytes=batch_bytes, batch_rows=batch_rows, columns=columns)
    batches = await drain(read)
    assert [row for b in batches for row in payload(b.data).to_pylist()] == [v for v, _ in rows]
    assert all(batch.data.num_rows <= batch_rows for batch in batches)
    for place, batch in enumerate(batches[:: max(1, len(batches) // 3)]):
        at = place * max(1, len(batches) // 3)
        # Other sizes after the crash must not matter either.
        rest = await drain(
            source(path, batch_bytes=17, batch_rows=3, columns=columns), batch.cursor
        )
        want = [row for b in batches[at + 1 :] for row in b.data.to_pylist()]
        assert [row for b in rest for row in b.data.to_pylist()] == want


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 1, "s"', "not JSON: Expecting ':' delimiter at column 14"),
        (b'{"id": 1} {"id": 2}', "not JSON: Extra data"),
        (b"[1]", "must hold a JSON object, not an array"),
        (b"null", "must hold a JSON object, not null"),
        (b" \tnull \r", "must hold a JSON object, not null"),
        (b'null {"id": 1}', "not JSON: Extra data"),
        (b'{"id": "x"}', "field 'id' is a text, and the column is int64"),
        (b'{"id": 0.5}', "field 'id' is a number, and the column is int64"),
        (b'{"in": {"a": true}}', "field 'in.a' is a boolean, and the column is int64"),
        (b'{"in": {"b": 1}}', "field 'in.b' is not in the lines from which"),
        (b'{"new": 1}', "field 'new' is not in the lines from which"),
        (b'{"s": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        (b'{"s": "\\ud800"}', "surrogate"),
        (b'{"id": 1, "id": 2}', "field 'id' occurs twice"),
        (b'{"id":\n1}', "not JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "the line|digits|int64"),
    ],
)
async def test_a_bad_line_is_named(tmp_path, line, reason):
    good = lines({"id": i, "s": "text", "in": {"a": i}} for i in range(1000))
    path = write(tmp_path / "x.jsonl", good + b"\n" + line + b"\n" + good)
    with pytest.raises(DataError, match=reason) as caught:
        await drain(source(path, batch_bytes=4000, jsonl={"sample_bytes": 1000}))
    place = f"{path.as_uri()}, line 1002 (byte {len(good) + 1})"
    assert place in str(caught.value)
    assert "columns" in str(caught.value)


async def test_every_bad_line_of_a_block_is_known(tmp_path):
    data = lines([{"a": 1}]) * 5 + b"oops\n" + lines([{"a": 1}]) + b"{}{}\n"
    path = write(tmp_path / "x.jsonl", data)
    with pytest.raises(DataError, match=r"line 6 .*1 more") as caught:
        await drain(source(path, columns={"a": "int64"}))
    assert list(caught.value.rows) == [5, 7]


async def test_contradicting_first_lines_are_named(tmp_path):
    path = write(tmp_path / "x.jsonl", lines([{"a": 1}] * 9 + [{"a": "x"}] + [{"a": 2}]))
    with pytest.raises(DataError, match=r"line 10 .*'a' is a text, .* earlier .*int64.*columns"):
        await drain(source(path))


@pytest.mark.parametrize(
    "data", [b"null", b"null\n", b'\n \nnull\n{"a":1}\n', b'{"a":1}\nnull\n', b'{"a":1}\r null\n']
)
@pytest.mark.parametrize("columns", [None, {"a": "int64"}])
async def test_a_line_of_null_is_refused_and_kills_nothing(tmp_path, data, columns):
    with pytest.raises(DataError, match=r"line \d .*(not null|not JSON)"):
        await drain(source(write(tmp_path / "x.jsonl", data), columns=columns))


async def test_a_line_of_null_where_a_thread_begins_its_chunk(tmp_path):
    good = b'{"a":1}\n' * 262_144  # 2 MiB, what one thread takes
    path = write(tmp_path / "x.jsonl", good + b"null\n" + good)
    with pytest.raises(DataError, match=r"line 262145 .*not null"):
        await drain(source(path, columns={"a": "int64"}))


@pytest.mark.parametrize("value", [b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 100_000])
async def test_deep_nesting_is_refused(tmp_path, value):
    path = write(tmp_path / "x.jsonl", b'{"x":' + value + b"}\n")
    with pytest.raises(DataError, match="nested"):
        await drain(source(path))


async def test_declared_columns_ignore_and_fill(tmp_path):
    data = lines([{"a": 1, "x": 1}, {"t": "2026-01-01T00:00:00Z"}, {"a": None, "x": {}}])
    path = write(tmp_path / "x.jsonl", data)
    read = source(path, columns={"t": "timestamp[us, tz=UTC]", "a": "float64"})
    (batch,) = await drain(read)
    assert batch.data.schema.equals(read.output().schema)
    assert batch.data.column("a").to_pylist() == [1.0, None, None]
    assert batch.data.column("t")[1].as_py().year == 2026


async def test_files_share_one_schema_and_small_ones_share_batches(tmp_path):
    for name, value in (("a", {"n": 1, "s": "x"}), ("b", {"s": "y"}), ("c", {"n": 3})):
        write(tmp_path / f"{name}.jsonl", lines([value] * 3))
    (batch,) = await drain(source(tmp_path))
    assert batch.data.column("n").to_pylist() == [1] * 3 + [None] * 3 + [3] * 3
    uris = [value["uri"][-7:] for value in batch.data.column("_source").to_pylist()]
    assert uris == ["a.jsonl"] * 3 + ["b.jsonl"] * 3 + ["c.jsonl"] * 3


async def test_resuming_keeps_the_inferred_schema(tmp_path):
    write(tmp_path / "a.jsonl", lines([{"n": 1, "s": "x"}]))
    write(tmp_path / "b.jsonl", lines([{"s": "y"}]))
    first, second = await drain(source(tmp_path, batch_rows=1))
    (again,) = await drain(source(tmp_path), first.cursor)
    assert again.data.schema == second.data.schema == first.data.schema


async def test_reserved_names_are_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", lines([{"_id": 1, "a": 2}]))
    with pytest.raises(ConfigError, match=r"'_id' .* reserved .*`columns`"):
        await drain(source(path))
    assert await values(path, columns={"a": "int64"}) == [{"a": 2}]
    with pytest.raises(ConfigError, match="reserved"):
        source(path, columns={"_id": "int64"}).output()


async def test_lines_longer_than_a_block(tmp_path, monkeypatch):
    long = [{"a": "x" * 9_000_000}, {"a": "y"}, {"a": "z" * 20_000_000}]
    path = write(tmp_path / "x.jsonl", lines(long))
    assert await values(path) == long
    monkeypatch.setattr("nvisy_connectors.object.formats.jsonl.MAX_LINE_BYTES", 10_000_000)
    with pytest.raises(DataError, match="line 3 is longer than 10000000 bytes"):
        await values(path)


async def test_a_change_between_crash_and_resume_is_noticed(tmp_path):
    path = write(tmp_path / "x.jsonl", lines({"a": i} for i in range(10)))
    batches = await drain(source(path, batch_rows=4))
    path.write_bytes(lines({"a": i} for i in range(11)))
    with pytest.raises(ConfigError, match=r"x.jsonl changed .*from the beginning"):
        await drain(source(path), batches[0].cursor)
    assert await drain(source(path), batches[-1].cursor) == []
    path.unlink()
    write(tmp_path / "y.jsonl", lines([{"a": 1}]))
    with pytest.raises(ConfigError, match="is gone"):
        await drain(source(tmp_path), batches[0].cursor)


async def test_a_change_while_reading_is_noticed(tmp_path):
    path = write(tmp_path / "x.jsonl", lines({"a": i} for i in range(10_000)))
    async with source(path, batch_bytes=64, columns={"a": "int64"}) as read:
        batches = read.read(None)
        await anext(batches)
        with path.open("ab") as file:
            file.write(lines([{"a": 1}]))
        with pytest.raises(TransientError, match="changed"):
            async for _ in batches:
                pass


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("rejects", [True, False])
async def test_files_with_byte_order_marks_that_were_put_together(
    tmp_path, monkeypatch, compiled, rejects
):
    """Each line is a row by itself, but for Arrow not all together."""
    if not compiled:
        monkeypatch.setattr(jsonl_rows, "library", lambda: None)
    # What the compiled reader leaves to Arrow, beside what it does not.
    marked = b'\xef\xbb\xbf{"a": "2024-02-29"}\n{"a": "2024-01-01"}\n\n'
    path = write(tmp_path / "x.jsonl", 3 * marked)
    reader = source(path, columns={"a": "timestamp"})
    reader.bad_records = "reject" if rejects else "raise"
    jsonl_rows.line_reader.cache_clear()
    found = await records(reader)
    jsonl_rows.line_reader.cache_clear()
    assert [row["_source"]["position"] for row in found] == [1, 2, 4, 5, 7, 8]
    assert [str(row["a"])[:10] for row in found] == ["2024-02-29", "2024-01-01"] * 3
