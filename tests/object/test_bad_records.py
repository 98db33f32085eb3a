"""Records that cannot be read: exactly the bad ones are rejected, wherever reading stops."""

import json

import pyarrow as pa
import pytest
from bad_lines import BREAKS, ROWS, good_line, places_of, rejected_in, rows_of, source, spoilt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, lines

from nvisy_connectors.object.formats import jsonl_rows
from nvisy_dagster.sdk import DataError

pytestmark = pytest.mark.anyio


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
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("columns", [None, {"id": "int64", "score": "float64"}])
async def test_every_kind_of_bad_line(tmp_path, monkeypatch, name, compiled, columns):
    if not compiled:
        monkeypatch.setattr(jsonl_rows, "is_compiled", lambda: False)
    if columns:
        columns = columns | {"in": "struct<tags: list<string>>"}
    made = [good_line(number) for number in range(1, 301)]
    for place in (0, 100, 101, 299):
        made[place] = BREAKS[name](made[place])
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\r\n".join(made))
    batches = await drain(source(path, columns=columns))
    assert [one.position for one in rejected_in(batches)] == [1, 101, 102, 300]
    tags = {one.tag for one in rejected_in(batches)}
    assert tags <= {"format", "encoding", "validation", "drift"}
    assert len(rows_of(batches)) == 296


any_line = st.one_of(
    st.integers(0, 99).map(good_line),
    st.tuples(st.sampled_from(sorted(BREAKS)), st.integers(0, 99)).map(
        lambda drawn: BREAKS[drawn[0]](good_line(drawn[1]))
    ),
    st.sampled_from([b"", b"  "]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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


@pytest.mark.parametrize("compiled", [True, False])
async def test_fields_that_the_first_lines_did_not_have(tmp_path, monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr(jsonl_rows, "is_compiled", lambda: False)
    made = [good_line(number) for number in range(1, 301)]
    made[200] = made[200].replace(b'"id"', b'"di"', 1)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(made))
    read = source(path, batch_bytes=2000, jsonl={"sample_bytes": 1000})
    (bad,) = rejected_in(await drain(read))
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


async def test_a_sample_of_nothing_but_bad_lines_is_another_format(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"words\n" * 4000)
    with pytest.raises(DataError, match=r"x\.jsonl: none of the first lines is a JSON object"):
        await drain(source(path, batch_bytes=5000, jsonl={"sample_bytes": 10_000}))


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
