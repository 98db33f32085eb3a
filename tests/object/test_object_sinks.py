"""What sinks leave on the disk, and what they leave alone."""

import csv
import json
import math
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_records import rows

from nvisy_connectors.object.local import LocalSink, LocalSinkParams
from nvisy_connectors.object.parts import PartName, parse_part, run_token
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType, Progress

pytestmark = pytest.mark.anyio


def sink(path, *, node_id="write", **params):
    return LocalSink(LocalSinkParams(path=str(path), **params), node_id=node_id)


async def run(path, batch, *, progress=("run", 0), epoch=1, finish=True, **params):
    async with sink(path, **params) as writer:
        await writer.start(Progress(*progress))
        await writer.write(batch)
        await writer.commit(epoch)
        if finish:
            await writer.finish()


def names(path):
    return sorted(file.name for file in path.iterdir())


async def test_names_and_foreign_files(tmp_path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    (tmp_path / "part-notes.txt").write_text("keep", encoding="utf-8")
    await run(tmp_path, rows(), progress=("old", 0))
    await run(tmp_path, rows(), mode="append")
    assert names(tmp_path) == [
        "mine.txt",
        "part-notes.txt",
        "part-old-00000001-0.jsonl",
        "part-run-00000001-0.jsonl",
    ]
    await run(tmp_path, rows(), progress=("new", 0), format="parquet")
    assert names(tmp_path) == ["mine.txt", "part-new-00000001-0.parquet", "part-notes.txt"]


async def test_envelope_in_json_has_uuids(tmp_path):
    await run(tmp_path, rows(2), envelope=True)
    (file,) = tmp_path.iterdir()
    first = json.loads(file.read_bytes().splitlines()[0])
    assert uuid.UUID(first["_id"]).bytes == rows(2).column("_id")[0].as_py()
    assert first["_root_id"] == first["_id"]
    assert first["_source"] == {"uri": "test:rows", "position": 0}
    assert (first["text"], first["tags"]) == ("text 0 ü\n", ["t0"])
    await run(tmp_path / "plain", rows(2))
    (file,) = (tmp_path / "plain").iterdir()
    assert list(json.loads(file.read_bytes().splitlines()[0])) == [
        "text",
        "number",
        "score",
        "tags",
    ]


async def test_parquet_is_compressed_and_has_large_row_groups(tmp_path):
    async with sink(tmp_path, format="parquet", envelope=True) as writer:
        await writer.start(Progress("run", 0))
        for start in range(0, 200_000, 10_000):
            await writer.write(rows(10_000, start=start))
        await writer.commit(1)
    (file,) = tmp_path.iterdir()
    meta = pq.read_metadata(file)
    assert (meta.num_rows, meta.num_row_groups) == (200_000, 2)
    assert meta.row_group(0).column(0).compression == "ZSTD"
    assert pq.read_schema(file).equals(rows(1).schema)


async def test_text_is_one_file_per_record_named_by_its_id(tmp_path):
    await run(tmp_path, rows(3), format="text")
    files = sorted(tmp_path.iterdir())
    assert [file.read_text(encoding="utf-8") for file in files] == [
        f"text {i} ü\n" for i in range(3)
    ]
    ids = [str(uuid.UUID(bytes=value)) for value in rows(3).column("_id").to_pylist()]
    assert [parse_part(file.name).record for file in files] == ids


async def test_large_parts_are_split(tmp_path):
    async with sink(tmp_path, part_bytes=1000) as writer:
        await writer.start(Progress("run", 0))
        for start in range(0, 100, 10):
            await writer.write(rows(10, start=start))
        await writer.commit(1)
    assert 2 < len(names(tmp_path)) < 10
    assert all(file.stat().st_size < 2000 for file in tmp_path.iterdir())


async def test_nothing_is_left_of_what_was_not_committed(tmp_path):
    async with sink(tmp_path) as writer:
        await writer.start(Progress("run", 0))
        await writer.write(rows())
        assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    assert names(tmp_path) == []
    leftover = tmp_path / ".nvisy-run.write.7"
    leftover.mkdir()
    (leftover / "0").write_text("of a killed process", encoding="utf-8")
    await run(tmp_path, rows())
    assert names(tmp_path) == ["part-run-00000001-0.jsonl"]


async def test_two_sinks_of_a_run_in_one_place_are_refused(tmp_path):
    async with sink(tmp_path, node_id="a") as one, sink(tmp_path, node_id="b") as two:
        await one.start(Progress("run", 0))
        await two.start(Progress("run", 0))
        await one.write(rows())
        await two.write(rows())
        await one.commit(1)
        with pytest.raises(ConfigError, match="another sink"):
            await two.commit(1)


async def test_a_commit_that_failed_can_be_repeated(tmp_path, monkeypatch):
    async with sink(tmp_path, part_bytes=1) as writer:
        await writer.start(Progress("run", 0))
        for start in range(0, 30, 10):
            await writer.write(rows(10, start=start))
        flush = writer.objects.flush
        monkeypatch.setattr(writer.objects, "flush", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await writer.commit(1)
        monkeypatch.setattr(writer.objects, "flush", flush)
        await writer.commit(1)
        await writer.finish()
    lines = [line for file in tmp_path.iterdir() for line in file.read_bytes().splitlines()]
    assert len(lines) == 30


async def test_numbers_that_json_lacks_are_refused_by_row(tmp_path):
    batch = rows(4).set_column(9, "score", pa.array([0.0, math.nan, 1.0, math.inf]))
    async with sink(tmp_path) as writer:
        await writer.start(Progress("run", 0))
        with pytest.raises(DataError) as caught:
            await writer.write(batch)
        await writer.commit(1)
    assert list(caught.value.rows) == [1, 3]
    (file,) = tmp_path.iterdir()
    assert [json.loads(line)["score"] for line in file.read_bytes().splitlines()] == [0.0, 1.0]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_maps_are_objects_of_json(tmp_path, form):
    texts = pa.map_(pa.string(), pa.int64())
    maps = {
        "m": pa.array([[("x", 1), ("y", None)], [("x", 1), ("x", 2)], None, [("z", 3)]], texts),
        "deep": pa.array(
            [[[(7, [("a", 1)])]], None, [], [None]], pa.list_(pa.map_(pa.int32(), texts))
        ),
        "pairs": pa.array([[(0.5, 1)], [], None, []], pa.map_(pa.float64(), pa.int64())),
        "score": pa.array([[0.5], None, [math.nan], []]),
    }
    batch = rows(4)
    for name, array in maps.items():
        place = batch.schema.get_field_index(name)
        if place < 0:
            batch = batch.append_column(name, array)
        else:
            batch = batch.set_column(place, name, array)
    options = {"csv": {"nested": "json"}} if form == "csv" else {}
    async with sink(tmp_path, format=form, **options) as writer:
        await writer.start(Progress("run", 0))
        with pytest.raises(DataError) as caught:
            await writer.write(batch)
        await writer.commit(1)
    assert list(caught.value.rows) == [1, 2]
    assert "a map in it has a key twice" in caught.value.rows[1]
    (file,) = tmp_path.iterdir()
    with file.open(newline="") as opened:
        found = list(csv.DictReader(opened)) if form == "csv" else list(map(json.loads, opened))
    read = json.loads if form == "csv" else lambda value: value
    got = [[read(row[name]) for name in ("m", "deep", "pairs")] for row in found]
    assert got == [
        [{"x": 1, "y": None}, [{"7": {"a": 1}}], [[0.5, 1]]],
        [{"z": 3}, [None], []],
    ]


def test_schemas_that_do_not_fit_are_refused(tmp_path):
    schema = rows().schema
    sink(tmp_path).check(EdgeType("row", schema))
    with pytest.raises(ConfigError, match="no column 'text'"):
        sink(tmp_path, format="text").check(EdgeType("row", schema.remove(7)))
    envelope = pa.schema(list(schema)[:7])
    with pytest.raises(ConfigError, match="envelope"):
        sink(tmp_path).check(EdgeType("row", envelope))
    sink(tmp_path, envelope=True).check(EdgeType("row", envelope))


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal128(5, -2),
        pa.map_(pa.string(), pa.decimal128(5, -2)),
        pa.month_day_nano_interval(),
        pa.struct([]),
    ],
    ids=str,
)
def test_types_that_parquet_has_not_are_refused_before_the_run(tmp_path, kind):
    sink = LocalSink(LocalSinkParams(path=str(tmp_path), format="parquet"), node_id="write")
    incoming = rows().append_column("odd", pa.nulls(rows().num_rows, kind))
    sink.check(EdgeType("row", rows().schema))
    with pytest.raises(ConfigError, match="cannot hold column 'odd', which is ") as caught:
        sink.check(EdgeType("row", incoming.schema))
    assert '"convert"' in str(caught.value.remedy)


async def test_a_folder_that_no_one_can_make():
    with pytest.raises(ConfigError, match=r"/proc/x cannot be written: .*check `path`"):
        async with sink("/proc/x"):
            pass


async def test_replacing_with_nothing_leaves_nothing(tmp_path):
    await run(tmp_path, rows(), progress=("old", 0))
    await run(tmp_path, rows(0), progress=("new", 0), mode="append")
    assert names(tmp_path) == ["part-old-00000001-0.jsonl"]
    await run(tmp_path, rows(0), progress=("newer", 0))
    assert names(tmp_path) == []


async def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="file"):
        async with sink(tmp_path / "file" / "folder"):
            pass


@pytest.mark.parametrize("run_id", ["simple", "a-b-00000001-2", "../x", "", "ü", "a/b", "x" * 500])
def test_part_names_survive_a_round_trip(run_id):
    name = PartName(run_token(run_id), 123456789, 7, "jsonl")
    assert parse_part(str(name)) == name
    assert "/" not in str(name)
    assert len(str(name)) < 200
