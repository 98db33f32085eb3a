"""Folders that tell columns, `dt=2024-01-01/region=eu/`: written, read, and left half way."""

import datetime as dt
import os
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from bad_lines import rejected_in, rows_of, source
from object_records import drain
from object_servers import connection_to
from test_parquet_push_down import Counted, graph, made_of, source_of, where

from nvisy_connectors.object import open_parts
from nvisy_connectors.object.local import LocalSink, LocalSinkParams
from nvisy_connectors.object.s3 import S3Sink, S3SinkParams, S3Source, S3SourceParams
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType, Progress
from nvisy_dagster.sdk.envelope import payload, with_envelope
from nvisy_dagster.sdk.identity import root_ids
from nvisy_dagster.sdk.testing import SinkConformance

pytestmark = pytest.mark.anyio

AWKWARD = [
    "",
    "a/b=c%2F",
    "..",
    ".",
    "ü 𝄞",
    "__HIVE_DEFAULT_PARTITION__",
    None,
    "a b",
    "_x",
    "'",
    "A",
    "a",
]


def batch_of(start, **columns):
    rows = len(next(iter(columns.values())))
    positions = np.arange(start, start + rows)
    return with_envelope(
        pa.record_batch(columns),
        ids=root_ids("test:p", positions),
        uri="test:p",
        positions=positions,
    )


def sink(path, *by, **params):
    made = LocalSinkParams(path=str(path), format="parquet", partition_by=by, **params)
    return LocalSink(made, node_id="write")


async def write(path, batches, *by, progress=("run", 0), **params):
    async with sink(path, *by, **params) as writer:
        await writer.start(Progress(*progress))
        for epoch, batch in enumerate(batches, start=1):
            await writer.write(batch)
            await writer.commit(epoch)
        await writer.finish()


def files(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*.parquet"))


class TestPartitionedSink(SinkConformance):
    component = LocalSink
    keeps_other_runs = False

    @pytest.fixture
    def rows(self):
        return batch_of(
            0, text=[f"t{i}" for i in range(9)], dt=["a", None, "b/"] * 3, n=pa.array(range(9))
        )

    @pytest.fixture
    def params(self, tmp_path):
        return LocalSinkParams(path=str(tmp_path), format="parquet", partition_by=["dt"])

    def key(self, row):
        return row["text"]

    def refused(self, rows):
        return [EdgeType("row", rows.drop_columns(["dt"]).schema)]

    async def read_back(self, params, connection):
        found = await drain(source(params.path, "parquet"))
        return [{name: row[name] for name in ("text", "dt", "n")} for row in rows_of(found)]


async def test_what_was_written_is_read_again(tmp_path):
    batch = batch_of(
        0,
        n=pa.array(range(24), pa.int32()),
        name=AWKWARD * 2,
        day=pa.array([dt.date(2024, 1, 1), dt.date(1960, 2, 29)] * 12),
        big=pa.array([-5, 2**62, None] * 8, pa.int64()),
        ok=[True] * 12 + [False] * 12,
    )
    await write(tmp_path, [batch], "name", "day", "big", "ok")
    types = {"day": "date", "big": "int64", "ok": "bool"}
    found = await drain(source(tmp_path, "parquet", partitions=types))
    rows = sorted(rows_of(found), key=lambda row: row["n"])
    assert rows == payload(batch).to_pylist()
    assert found[0].data.schema.field("day").type == pa.date32()
    read = f"read_parquet('{tmp_path}/**/*.parquet', hive_partitioning = true)"
    query = f"SELECT count(*), count(DISTINCT n) FROM {read}"
    assert duckdb.sql(query).fetchall() == [(24, 24)]
    assert "name" not in pq.read_schema(tmp_path / files(tmp_path)[0]).names
    # Another run replaces all of it, and nothing of others.
    (tmp_path / "name=a" / "notes.txt").write_text("keep", encoding="utf-8")
    await write(tmp_path, [batch.slice(0, 1)], "name", progress=("later", 0))
    assert files(tmp_path) == ["name=/part-later-00000001-0-p1.parquet"]
    assert (tmp_path / "name=a" / "notes.txt").exists()


async def test_values_that_make_no_folder_fail_alone(tmp_path):
    batch = batch_of(0, n=[1, 2, 3], name=["ok", "x" * 300, "ü" * 90])
    async with sink(tmp_path, "name") as writer:
        await writer.start(Progress("run", 0))
        with pytest.raises(DataError, match="255 are possible") as caught:
            await writer.write(batch)
        await writer.commit(1)
    assert list(caught.value.rows) == [1, 2]
    assert rows_of(await drain(source(tmp_path, "parquet"))) == [{"n": 1, "name": "ok"}]
    schema = batch_of(0, n=[1.5], s=[1]).schema
    for by, reason in ((("s", "n"), "'n' is double"), (("x",), "'x' that does not come in")):
        with pytest.raises(ConfigError, match=reason):
            sink(tmp_path, *by).check(EdgeType("row", schema))
    with pytest.raises(ConfigError, match="all columns"):
        sink(tmp_path, "s").check(EdgeType("row", batch_of(0, s=[1]).schema))


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_many_partitions_keep_few_files_open(tmp_path, monkeypatch):
    monkeypatch.setattr(open_parts, "OPEN_PARTS", 8)
    keys = [f"{i * 7 % 40}" for i in range(4000)]
    batches = [
        batch_of(at, n=list(range(at, at + 500)), key=keys[at : at + 500])
        for at in range(0, 4000, 500)
    ]
    most = 0
    async with sink(tmp_path, "key", parquet={"row_group_rows": 100}) as writer:
        await writer.start(Progress("run", 0))
        before = open_files()
        for batch in batches:
            await writer.write(batch)
            most = max(most, open_files() - before)
        await writer.commit(1)
        await writer.finish()
    assert 1 <= most <= 10
    found = rows_of(await drain(source(tmp_path, "parquet")))
    assert sorted((row["n"], row["key"]) for row in found) == list(enumerate(keys))


async def test_partitions_in_a_bucket(s3_server, s3, place):
    connection = connection_to(s3_server)
    batch = batch_of(0, n=list(range(24)), name=AWKWARD * 2)
    params = S3SinkParams(prefix=f"{place}/lake", format="parquet", partition_by=["name"])
    async with S3Sink(params, connection, node_id="write") as writer:
        await writer.start(Progress("run", 0))
        await writer.write(batch)
        await writer.commit(1)
        await writer.finish()
    for prefix in (f"{place}/lake/", f"{place}/la"):
        read = S3Source(S3SourceParams(prefix=prefix, format="parquet"), connection, node_id="r")
        rows = sorted(rows_of(await drain(read)), key=lambda row: row["n"])
        assert rows == payload(batch).to_pylist()
    # A prefix that ends within the name of a folder does not tell what the folder says.
    read = S3SourceParams(prefix=f"{place}/lake/name=a", format="parquet")
    found = rows_of(await drain(S3Source(read, connection, node_id="r")))
    assert {tuple(row) for row in found} == {("n",)}


class Died(BaseException):
    """The process is gone."""


async def test_a_run_that_dies_anywhere_leaves_nothing_half(tmp_path, monkeypatch):
    """Before every single change of the disk, in the last of two epochs and in `finish`."""
    batches = [
        batch_of(at, n=list(range(at, at + 6)), key=["a", "b", None, "a", "b", "c"])
        for at in (0, 6)
    ]
    calls = 0
    dies_at = -1

    def before(name, inner):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise Died(name)
            return inner(*args, **kwargs)

        return call

    for owner, name in ((Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (os, "fsync")):
        monkeypatch.setattr(owner, name, before(name, getattr(owner, name)))

    died = 0
    for at in range(1, 100):
        path = tmp_path / f"{at}"
        dies_at = -1
        await write(path, [batches[0]], "key", progress=("old", 0))
        await write(path, [batches[0]], "key", progress=("run", 0), mode="append")
        calls, dies_at = 0, at
        try:
            async with sink(path, "key") as writer:
                await writer.start(Progress("run", 1))
                await writer.write(batches[1])
                await writer.commit(2)
                await writer.finish()
        except (Died, BaseExceptionGroup):
            died += 1
        else:
            break
        dies_at = -1
        for file in files(path):
            assert pq.read_table(path / file, partitioning=None).num_rows
        async with sink(path, "key") as writer:  # the checkpoint says that epoch 1 is done
            await writer.start(Progress("run", 1))
            await writer.write(batches[1])
            await writer.commit(2)
            await writer.finish()
        found = rows_of(await drain(source(path, "parquet")))
        expected = [row for batch in batches for row in payload(batch).to_pylist()]
        assert sorted(found, key=lambda row: row["n"]) == expected
    assert died > 10


@pytest.fixture
def lake(tmp_path):
    """As DuckDB writes it: a folder per day and region, several row groups each."""
    columns = "i AS id, i % 7 AS n, 't' || i AS t, DATE '2024-01-01' + (i // 5000)::INT AS dt"
    region = "CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END AS region"
    form = "FORMAT parquet, PARTITION_BY (dt, region), ROW_GROUP_SIZE 2048"
    rows = f"SELECT {columns}, {region} FROM range(20000) r(i)"
    duckdb.sql(f"COPY ({rows}) TO '{tmp_path}/lake' ({form})")
    return tmp_path / "lake"


async def test_folders_of_duckdb_and_of_pyarrow(lake, tmp_path, monkeypatch):
    expected = duckdb.sql(f"SELECT id, n, t, dt, region FROM '{lake}/**/*.parquet' ORDER BY id")
    found = await drain(source(lake, "parquet", partitions={"dt": "date"}))
    rows = sorted(rows_of(found), key=lambda row: row["id"])
    assert [tuple(row.values()) for row in rows] == expected.fetchall()
    assert {row["_source"]["position"] for row in found[0].data.to_pylist()} < set(range(5000))
    ds.write_dataset(
        pa.table({"n": [1, 2], "k": ["x", None]}),
        tmp_path / "arrow",
        format="parquet",
        partitioning=["k"],
        partitioning_flavor="hive",
    )
    found = rows_of(await drain(source(tmp_path / "arrow", "parquet")))
    assert found == [{"n": 2, "k": None}, {"n": 1, "k": "x"}]
    assert rows_of(await drain(source(tmp_path / "arrow", "parquet", columns=["k"]))) == [
        {"k": None},
        {"k": "x"},
    ]
    assert rows_of(await drain(source(tmp_path / "arrow", "parquet", partitions=False)))[0] == {
        "n": 2
    }
    predicate = "dt = '2024-01-03' and region = 'us' and id > 0"
    plan = compile_document(graph(lake, where(predicate), partitions={"dt": "date"}))
    counted = Counted(monkeypatch)
    on = await drain(source_of(plan))
    pushed, counted.bytes = counted.bytes, 0
    off = await drain(source_of(plan, pushes=False))
    assert made_of(on, predicate) == made_of(off, predicate)
    assert sum(len(batch.data) for batch in on) < 5000
    assert counted.bytes > 3 * pushed


async def test_folders_that_cannot_be_read(lake):
    (lake / "dt=nonsense" / "region=eu").mkdir(parents=True)
    [one, *_] = sorted((lake / "dt=2024-01-01" / "region=eu").iterdir())
    (lake / "dt=nonsense" / "region=eu" / "x.parquet").write_bytes(one.read_bytes())
    found = await drain(source(lake, "parquet", partitions={"dt": "date"}))
    [bad] = rejected_in(found)
    assert (bad.tag, bad.position) == ("format", None)
    assert "dt=nonsense is no date32" in bad.reason
    assert len(rows_of(found)) == 20000
    (lake / "x.parquet").write_bytes(one.read_bytes())
    with pytest.raises(ConfigError, match=r"x.parquet has no column 'dt'"):
        await drain(source(lake, "parquet"))
