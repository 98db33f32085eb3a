"""Declared columns of Parquet files, files that hold far more than their size, and row groups."""

import datetime as dt
import resource
from contextlib import aclosing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_lines import rejected_in, rows_of, source
from object_records import drain, rows
from test_parquet_push_down import graph, made_of, select, source_of, where

from nvisy_connectors.object.formats import parquet_decoding
from nvisy_connectors.object.local import LocalSink, LocalSinkParams
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.sdk import ConfigError, DataError, Progress

pytestmark = pytest.mark.anyio

COLUMNS = {"id": "int64", "day": "date", "price": "decimal(9, 2)", "note": "string"}


@pytest.fixture
def versions(tmp_path):
    """Three ages of one table."""
    pq.write_table(
        pa.table({"id": pa.array([1, 2], pa.int32()), "day": ["2024-01-01", "soon"]}),
        tmp_path / "a.parquet",
    )
    pq.write_table(
        pa.table({
            "note": pa.array(["n", None, "m"]).dictionary_encode(),
            "id": ["3", "4", "x"],
            "day": [dt.date(2024, 1, 2)] * 3,
            "price": [1.5, 2.125, None],
            "more": [1, 2, 3],
        }),
        tmp_path / "b.parquet",
        row_group_size=2,
    )
    pq.write_table(pa.table({"id": [6], "more": [{"x": 1}]}), tmp_path / "c.parquet")
    return tmp_path


async def test_values_become_those_of_the_declared_types(versions):
    read = source(versions, "parquet", columns=COLUMNS)
    batches = await drain(read)
    assert all(batch.data.schema.equals(read.output().schema) for batch in batches)
    assert [tuple(map(str, row.values())) for row in rows_of(batches)] == [
        ("1", "2024-01-01", "None", "None"),
        ("3", "2024-01-02", "1.50", "n"),
        ("6", "None", "None", "None"),
    ]
    told = [(one.position, one.reason) for one in rejected_in(batches)]
    assert told == [
        (1, "row 1: column 'day': 'soon' is no date32[day]"),
        (1, "row 1: column 'price': '2.125' is no decimal128(9, 2)"),
        (2, "row 2: column 'id': 'x' is no int64"),
    ]
    assert rejected_in(batches)[0].data == b'{"id": 2, "day": "soon"}'
    read = source(versions, "parquet", columns=COLUMNS)
    read.bad_records = "raise"
    with pytest.raises(DataError, match=r"a.parquet: row 1: column 'day': 'soon' is no date32"):
        await drain(read)
    with pytest.raises(ConfigError, match=r"'more' of .*c.parquet is struct<.*cannot become"):
        await drain(source(versions, "parquet", columns={"more": "int64"}))


@pytest.mark.parametrize(
    "actions",
    [
        [where("id > 5")],
        [where("id > 1 and note = 'n'"), select("id")],
        [select("note")],
        [where("ID = 6 or day is null"), select("id")],
    ],
)
async def test_nothing_that_is_refused_is_left_out(versions, actions):
    """A row is refused for any of its columns, wanted or not; also behind any cursor."""
    predicate = next((a["params"]["where"] for a in actions if a["action"] == "filter"), None)
    plan = compile_document(graph(versions, *actions, columns=COLUMNS))
    on = await drain(source_of(plan))
    off = await drain(source_of(plan, pushes=False))
    for data, other in zip(made_of(on, predicate), made_of(off, predicate), strict=True):
        wanted = set(data[0]) if data and isinstance(data[0], dict) else None
        assert data == (
            [{n: row[n] for n in row if n in wanted} for row in other] if wanted else other
        )
    for place, batch in enumerate(on):
        rest = await drain(source_of(plan), batch.cursor)
        assert made_of(rest, predicate) == made_of(on[place + 1 :], predicate)


async def test_what_is_refused_in_a_folder_that_nobody_wants_is_told(tmp_path):
    for key, days in (("a", ["2024-01-01"]), ("b", ["2024-01-02", "soon"])):
        (tmp_path / f"k={key}").mkdir()
        pq.write_table(pa.table({"day": days}), tmp_path / f"k={key}" / "f.parquet")
    declared = {"columns": {"day": "date"}, "partitions": {"k": "string"}}
    plan = compile_document(graph(tmp_path, where("k = 'a'"), **declared))
    on, off = await drain(source_of(plan)), await drain(source_of(plan, pushes=False))
    assert made_of(on, "k = 'a'") == made_of(off, "k = 'a'")
    assert [one.position for one in rejected_in(on)] == [1]


def by_number(words):
    """Of pandas, say: another dictionary in each row group, with few numbers for its words."""
    return pa.DictionaryArray.from_arrays(pa.array(range(len(words)), pa.int8()), words)


async def test_texts_are_read_written_out(tmp_path):
    """However a file tells them: what goes on is kept between stages, and sorted."""
    path = tmp_path / "in"
    path.mkdir()
    parts = [[f"{group}-{word}" for word in range(100)] for group in range(2)]
    tables = [
        pa.table({
            "n": range(100),
            "word": by_number(words),
            "in": pa.StructArray.from_arrays([by_number(words)], ["w"]),
            "view": pa.array(words, pa.string_view()),
            "bytes": pa.array([word.encode() for word in words], pa.binary_view()),
            "views": pa.array([[word] for word in words], pa.list_(pa.string_view())),
        })
        for words in parts
    ]
    with pq.ParquetWriter(path / "a.parquet", tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    batches = await drain(source(path, "parquet"))
    found = pa.Table.from_batches([batch.data for batch in batches])
    wanted = pa.concat_tables(tables)
    assert found.select(wanted.column_names).to_pylist() == wanted.to_pylist()
    texts = pa.string()
    kinds = [texts, pa.struct({"w": texts}), texts, pa.binary(), pa.list_(texts)]
    assert [str(kind) for kind in found.schema.types[-5:]] == [
        str(kind).replace("item", "element") for kind in kinds
    ]
    document = graph(path, {"action": "sort", "params": {"by": ["n"]}})
    await run_plan(compile_document(document), {}, storage=tmp_path / "state")
    [file] = (tmp_path / "in-out").rglob("*.parquet")
    assert pq.read_table(file)["n"].to_pylist() == [n for n in range(100) for _ in range(2)]
    for batch in batches:
        batches = batches[1:]
        rest = await drain(source(path, "parquet"), batch.cursor)
        assert rows_of(rest) == rows_of(batches)


async def test_every_cursor_of_a_pruned_read(tmp_path):
    for file in range(3):
        table = pa.table({"n": range(file * 40, file * 40 + 40), "t": ["x"] * 40})
        (tmp_path / f"k={file}").mkdir()
        pq.write_table(table, tmp_path / f"k={file}" / "a.parquet", row_group_size=10)
    predicate = "k <> '1' and (n between 12 and 15 or n >= 111)"
    plan = compile_document(graph(tmp_path, where(predicate), select("n"), batch_rows=6))
    on = await drain(source_of(plan))
    passed, _, _ = made_of(on, predicate)
    assert [row["n"] for row in passed] == [*range(12, 16), *range(111, 120)]
    assert [row["_source"]["position"] for row in passed] == [*range(12, 16), *range(31, 40)]
    assert sum(len(batch.data) for batch in on) == 10 + 10 + 10
    assert set(on[0].data.schema.names[-2:]) == {"n", "k"}
    for place, batch in enumerate(on):
        cursor = type(batch.cursor).model_validate_json(batch.cursor.model_dump_json())
        for pushes in (True, False):  # a stage that goes on may read all
            rest = await drain(source_of(plan, pushes=pushes), cursor)
            found = [row["n"] for row in made_of(rest, predicate)[0]]
            assert found == [row["n"] for row in made_of(on[place + 1 :], predicate)[0]]


def bomb(path):
    """A gigabyte in some hundred bytes: a long text that is told once, and then by number."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 16384, pa.int32()), ["x" * 65536])
    table = pa.table({"n": range(16384), "t": texts})
    with pq.ParquetWriter(
        path,
        table.schema,
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=1 << 20,
    ) as writer:
        writer.write_table(table.slice(0, 512))
        writer.write_table(table.slice(512, 512))
        writer.write_table(table.slice(1024))


async def test_a_bomb_stops_at_the_cap(tmp_path):
    bomb(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 124_000
    pq.write_table(pa.table({"n": [1], "t": ["after"]}), tmp_path / "b.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = await drain(source(tmp_path, "parquet"))
    [bad] = rejected_in(batches)
    assert (bad.tag, bad.metadata) == ("too_large", {"rows": 16384 - bad.position, "torn": True})
    assert bad.reason.endswith(f"rows {bad.position} to 16383, the rest of the file")
    assert [row["n"] for row in rows_of(batches)] == [*range(bad.position), 1]
    assert 0 < bad.position * 65536 <= 124 << 20
    assert max(batch.data.nbytes for batch in batches) < 40 << 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 400
    for batch in batches:
        batches = batches[1:]
        rest = await drain(source(tmp_path, "parquet"), batch.cursor)
        assert rejected_in(rest) == rejected_in(batches)
        assert len(rows_of(rest)) == len(rows_of(batches))
    # Under a cap that allows it all, it comes in pieces.
    read = source(tmp_path, "parquet", max_decoded_bytes=2 << 30, glob="a*", columns=["t"])
    seen = most = 0
    async with read, aclosing(read.read(None)) as found:
        async for batch in found:
            seen += batch.data.num_rows
            most = max(most, batch.data.nbytes)
    assert (seen, most <= 33 << 20) == (16384, True)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 400
    # What nobody wants of it does no harm.
    plan = compile_document(graph(tmp_path, select("n")))
    found = await drain(source_of(plan))
    assert (len(rows_of(found)), rejected_in(found)) == (16385, [])


@pytest.mark.parametrize("kind", ["list", "page"])
async def test_a_row_that_is_a_bomb_is_not_decoded(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(parquet_decoding, "FREE_BYTES", 4 << 20)
    values = [[[0] * 1_000_000]] if kind == "list" else [["y" * (8 << 20)]]
    pq.write_table(
        pa.table({"v": values[0]}),
        tmp_path / "a.parquet",
        compression="zstd",
        use_dictionary=kind == "list",
    )
    called = []
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *args, **kwargs: called.append((args, kwargs))
    )
    [bad] = rejected_in(await drain(source(tmp_path, "parquet")))
    assert (bad.tag, bad.position, called) == ("too_large", 0, [])


async def test_row_groups_are_as_large_as_they_are_told(tmp_path):
    params = {"format": "parquet", "parquet": {"row_group_rows": 1000, "compression": "snappy"}}
    async with LocalSink(LocalSinkParams(path=str(tmp_path), **params), node_id="w") as writer:
        await writer.start(Progress("run", 0))
        for start in range(0, 4500, 300):
            await writer.write(rows(300, start=start))
        await writer.commit(1)
    [file] = tmp_path.iterdir()
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [1000] * 4 + [500]
    number = groups[2].column(1)
    assert (number.path_in_schema, number.compression) == ("number", "SNAPPY")
    assert (number.statistics.min, number.statistics.max) == (2000, 2999)
    assert pq.read_table(file)["text"].to_pylist() == rows(4500)["text"].to_pylist()
