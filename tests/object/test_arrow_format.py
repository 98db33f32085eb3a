"""Arrow IPC files and streams: read as others write them, resumed, cut off, and written."""

from contextlib import suppress

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pytest
from bad_lines import places_of, rejected_in, rows_of
from bad_lines import source as lenient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_records import drain, rows

from nvisy_connectors.object.formats.arrow_messages import DamagedError, MessageReader
from nvisy_connectors.object.formats.read_ahead import ReadAhead
from nvisy_connectors.object.local import LocalSink, LocalSinkParams, LocalSource, LocalSourceParams
from nvisy_dagster.sdk import ConfigError, DataError, Progress
from nvisy_dagster.sdk.envelope import payload

pytestmark = pytest.mark.anyio


def source(path, **params):
    return lenient(path, "arrow", **params)


def table(count=5000):
    return pa.table({
        "n": pa.array(range(count), pa.int32()),
        "text": [None if n % 7 == 0 else f"text {n} ü" for n in range(count)],
        "word": pa.array([("red", "green", "blue")[n % 3] for n in range(count)]),
        "list": [[n, None] if n % 5 else None for n in range(count)],
    })


def write(path, data, *, stream=False, codec=None, batch_rows=700):
    options = pa.ipc.IpcWriteOptions(compression=codec)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, data.schema, options=options) as writer:
        writer.write_table(data, batch_rows)
    return path


@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_read_and_resumed_anywhere(tmp_path, codec, stream):
    data = table()
    write(tmp_path / "a.arrow", data, codec=codec, stream=stream)
    write(tmp_path / "b.arrow", data.slice(0, 3), codec=codec, stream=stream)
    batches = await drain(source(tmp_path, batch_rows=300))
    assert rows_of(batches) == data.to_pylist() + data.slice(0, 3).to_pylist()
    assert [place for _, place in places_of(batches)] == [*range(5000), *range(3)]
    assert max(batch.data.num_rows for batch in batches) == 300
    for place in (0, 2, 5, len(batches) - 2, len(batches) - 1):
        rest = await drain(source(tmp_path, batch_rows=300), batches[place].cursor)
        assert rows_of(rest) == rows_of(batches[place + 1 :])
        assert places_of(rest) == places_of(batches[place + 1 :])


async def test_what_others_write(tmp_path):
    frame = pd.DataFrame({
        "n": [1, 2, 3],
        "kind": pd.Categorical(["a", None, "a"]),
        "at": pd.to_datetime(["2024-02-29", None, "2024-03-01"], utc=True),
    })
    frame.to_feather(tmp_path / "pandas.feather")
    found = rows_of(await drain(source(tmp_path / "pandas.feather")))
    assert [row["kind"] for row in found] == ["a", None, "a"]
    assert [row["at"] for row in found] == [
        None if pd.isna(at) else at.to_pydatetime() for at in frame["at"]
    ]
    # As Polars does: views, and words that have other numbers in the next batch.
    views = pa.table({
        "text": pa.chunked_array([
            pa.array(["short", None, "longer than twelve letters"]).cast(pa.string_view()),
            pa.array(["of another batch"]).cast(pa.string_view()),
        ]),
        "data": pa.array([b"\0", None, b"x" * 20, b""]).cast(pa.binary_view()),
    })
    write(tmp_path / "views.arrow", views, batch_rows=3)
    expected = views.cast(pa.schema({"text": pa.string(), "data": pa.binary()}))
    found = await drain(source(tmp_path / "views.arrow"))
    assert rows_of(found) == expected.to_pylist()
    assert found[0].data.schema.field("text").type == pa.string()
    first, second = (pa.array(words).dictionary_encode() for words in (["a", "b"], ["b", "c"]))
    with pa.ipc.new_stream(str(tmp_path / "words.arrows"), pa.schema({"w": first.type})) as writer:
        for words in (first, second):
            writer.write_batch(pa.record_batch({"w": words}))
    batches = await drain(source(tmp_path / "words.arrows"))
    assert [row["w"] for row in rows_of(batches)] == ["a", "b", "b", "c"]
    rest = await drain(source(tmp_path / "words.arrows"), batches[0].cursor)
    assert [row["w"] for row in rows_of(rest)] == ["b", "c"]


async def test_columns_are_chosen_and_cast(tmp_path):
    write(tmp_path / "x.arrow", table(10))
    found = rows_of(await drain(source(tmp_path, columns=["word", "n"])))
    assert found == [{"word": row["word"], "n": row["n"]} for row in table(10).to_pylist()]
    with pytest.raises(ConfigError, match="has no column 'm'"):
        await drain(source(tmp_path, columns=["m"]))
    batches = await drain(source(tmp_path, columns={"n": "string", "text": "int64", "no": "bool"}))
    assert [row["n"] for row in rows_of(batches)] == ["0", "7"]
    assert [one.position for one in rejected_in(batches)] == [n for n in range(10) if n % 7]
    assert "text" in rejected_in(batches)[0].reason
    dated = tmp_path / "dated" / "day=2024-01-02"
    dated.mkdir(parents=True)
    write(dated / "x.arrow", table(2))
    [one, two] = rows_of(
        await drain(source(tmp_path / "dated", glob="**/*.arrow", columns=["n", "day"]))
    )
    assert (one, two) == ({"n": 0, "day": "2024-01-02"}, {"n": 1, "day": "2024-01-02"})


@pytest.mark.parametrize("stream", [False, True])
async def test_what_comes_before_a_broken_place_is_read(tmp_path, stream):
    path = write(tmp_path / "a.arrow", table(), stream=stream)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    write(tmp_path / "b.arrow", table(3))
    batches = await drain(source(tmp_path))
    found = rows_of(batches)
    assert found[-3:] == table(3).to_pylist()
    kept = len(found) - 3
    assert kept in range(1400, 3000, 700)
    assert found[:kept] == table(kept).to_pylist()
    [torn] = rejected_in(batches)
    assert (torn.position, torn.tag) == (kept, "format")
    assert f"row {kept} and all behind it" in torn.reason
    loud = source(path)
    loud.bad_records = "fail"
    with pytest.raises(DataError, match="not a readable Arrow file"):
        await drain(loud)


@pytest.mark.parametrize(
    "data", [b"", b"ARROW1\0\0", b"ARROW1\0\0nonsense", b"PAR1" * 40, b"\0" * 64]
)
async def test_what_is_none(tmp_path, data):
    (tmp_path / "x.arrow").write_bytes(data)
    batches = await drain(source(tmp_path))
    assert not rows_of(batches)
    [bad] = rejected_in(batches)
    assert "is not a readable Arrow file" in bad.reason


async def test_a_bomb_stops_before_it_is_decoded(tmp_path):
    """1 GB of some kB; and rows without a single byte."""
    before = pa.total_allocated_bytes()
    zeros = pa.table({"z": pa.array([b"\0" * (64 << 20)], pa.binary())})
    write(tmp_path / "x.arrow", pa.concat_tables([zeros] * 16), codec="zstd", batch_rows=1)
    assert (tmp_path / "x.arrow").stat().st_size < 1 << 20
    del zeros
    pa.default_memory_pool().release_unused()
    assert pa.total_allocated_bytes() <= before
    for params, least in (({}, 0), ({"max_decoded_bytes": 200 << 20}, 2)):
        batches = await drain(source(tmp_path, **params))
        assert least <= sum(batch.data.num_rows for batch in batches) <= 14
        [torn] = rejected_in(batches)
        assert torn.tag == "too_large"
        assert "holds more than" in torn.reason
        del batches
    nothing = pa.RecordBatch.from_arrays([pa.nulls(2_000_000_000)], ["n"])
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), nothing.schema) as writer:
        writer.write_batch(nothing)
    [torn] = rejected_in(await drain(source(tmp_path)))
    assert torn.tag == "too_large"


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
async def test_damage_of_any_kind_is_told(tmp_path, data):
    path = write(tmp_path / "x.arrow", table(200), codec="lz4", batch_rows=50)
    made = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(made)
    try:
        batches = await drain(source(tmp_path, max_decoded_bytes=1 << 20))
    except ConfigError:
        return  # other names or types, which are as good as any
    for batch in batches:
        batch.data.validate()


def read_ahead(data):
    return ReadAhead(lambda start, _: iter([data[start:]]), len(data))


def rows_in(data):
    found = 0
    with read_ahead(data) as ahead:
        reader = MessageReader(ahead, len(data))
        while (message := reader.read()) is not None:
            found += message.rows if message.is_rows else 0
    return found


def test_a_message_that_points_anywhere_is_refused():
    made = pa.BufferOutputStream()
    with pa.ipc.new_stream(made, table(3).schema) as writer:
        writer.write_table(table(3))
    sound = made.getvalue().to_pybytes()
    assert rows_in(sound) == 3
    for place in range(0, len(sound) - 4, 4):
        with suppress(DamagedError):
            rows_in(sound[:place] + b"\xff\xff\xff\x7f" + sound[place + 4 :])


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_cut_between_two_messages_is_not_whole(tmp_path, stream):
    path = write(tmp_path / "x.arrow", table(50), stream=stream, batch_rows=10)
    sound = path.read_bytes()
    ends = [0 if stream else 8]
    with read_ahead(sound) as ahead:
        reader = MessageReader(ahead, len(sound))
        while (message := reader.read()) is not None:
            ends.append(ends[-1] + sum(map(len, message.pieces)))
    for cut, rows_left in ((ends[1], 0), (ends[4], 30)):
        for tail in (b"", b"\0" * 64):
            path.write_bytes(sound[:cut] + tail)
            batches = await drain(source(path))
            assert rows_of(batches) == table(rows_left).to_pylist()
            [torn] = rejected_in(batches)
            assert torn.tag == "format"
    if stream:
        path.write_bytes(sound + sound)
        batches = await drain(source(path))
        assert rows_of(batches) == table(50).to_pylist()
        [more] = rejected_in(batches)
        assert "there is more behind its end" in more.reason


async def test_types_that_are_told_by_number_or_cannot_be_read(tmp_path):
    words = [pa.array([1, 2, 1]), pa.array([1.5, None, 1.5])]
    data = pa.table({
        "n": words[0].dictionary_encode(),
        "f": words[1].dictionary_encode(),
        "views": pa.array([{"review": "x", "views": 1}] * 3),
        "ree": pc.run_end_encode(pa.array([7, 7, 8])),
    })
    path = write(tmp_path / "x.arrow", data)
    with pytest.raises(ConfigError, match=r"column 'ree' .* cannot be read"):
        await drain(source(path))
    found = rows_of(await drain(source(path, columns=["n", "f", "views"])))
    assert found == [
        {"n": n, "f": f, "views": {"review": "x", "views": 1}}
        for n, f in ((1, 1.5), (2, None), (1, 1.5))
    ]


async def test_rows_without_columns_and_folders_that_say_nothing(tmp_path):
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), pa.schema([])) as writer:
        writer.write_batch(pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([]))))
    [bad] = rejected_in(await drain(source(tmp_path)))
    assert "it has no columns" in bad.reason
    folder = tmp_path / "day=soon"
    folder.mkdir()
    (tmp_path / "x.arrow").rename(folder / "x.arrow")
    params = {"glob": "**/*.arrow", "partitions": {"day": "date"}}
    [bad] = rejected_in(await drain(source(tmp_path, **params)))
    assert "day=soon" in bad.reason


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
async def test_what_is_written_is_read_by_others(tmp_path, codec):
    sink = LocalSink(
        LocalSinkParams(path=str(tmp_path), format="arrow", arrow={"compression": codec})
    )
    batches = [rows(500, start=start) for start in range(0, 2000, 500)]
    words = pa.array(["a", "b"] * 250).dictionary_encode()
    batches = [batch.append_column("word", words) for batch in batches]
    async with sink:
        await sink.start(Progress("run", 0))
        for batch in batches:
            await sink.write(batch)
        await sink.commit(1)
        await sink.finish()
    [file] = tmp_path.iterdir()
    assert file.name.endswith(".arrow")
    expected = [row for batch in batches for row in payload(batch).to_pylist()]
    assert pyarrow.feather.read_table(file).to_pylist() == expected
    assert rows_of(await drain(source(tmp_path))) == expected
    database = duckdb.connect()
    database.register("found", pa.ipc.open_file(str(file)).read_all())
    query = "SELECT count(*), count(DISTINCT word), sum(number) FROM found"
    assert database.sql(query).fetchall() == [(2000, 2, sum(range(2000)) - 3)]


def test_it_says_that_it_needs_no_types(tmp_path):
    made = LocalSource(LocalSourceParams(path=str(tmp_path), format="arrow", columns={"a": "int8"}))
    assert made.output().schema.field("a").type == pa.int8()
    assert (
        LocalSource(LocalSourceParams(path=str(tmp_path), format="arrow")).output().schema is None
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_the_last_rows_end_their_file_if_its_end_is_whole(tmp_path, stream):
    path = write(tmp_path / "x.arrow", table(50), stream=stream, batch_rows=10)
    sound = path.read_bytes()
    batches = await drain(source(path, batch_rows=5))
    assert [batch.cursor.offset for batch in batches] == [*range(5, 50, 5), None]
    # Nothing is over where the last bytes are missing, or where there are more of them.
    path.write_bytes(sound + b"more" if stream else sound[:-1])
    batches = await drain(source(path, batch_rows=5))
    assert [batch.cursor.offset for batch in batches] == [*range(5, 55, 5), None]
    assert [len(batch.rejected) for batch in batches] == [0] * 10 + [1]
    [again] = await drain(source(path, batch_rows=5), batches[-2].cursor)
    assert (again.data.num_rows, len(again.rejected)) == (0, 1)


async def test_words_behind_the_last_rows_end_their_file(tmp_path):
    data = pa.table({"word": pa.array(["a", "b"]).dictionary_encode()})
    path = write(tmp_path / "x.arrow", data, stream=True)
    sound = path.read_bytes()
    with read_ahead(sound) as ahead:
        reader = MessageReader(ahead, len(sound))
        schema, words, rows_ = (b"".join(reader.read().pieces) for _ in range(3))
    path.write_bytes(schema + words + rows_ + words + b"\xff" * 4 + b"\0" * 4)
    batches = await drain(source(path))
    assert rows_of(batches) == [{"word": "a"}, {"word": "b"}]
    assert [batch.cursor.offset for batch in batches] == [2, None]
    assert not rejected_in(batches)
