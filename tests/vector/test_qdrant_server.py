"""How failures of a Qdrant server become ours, and what is sent to it."""

import socket

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr
from vector_records import embeddings

from nvisy_connectors.vector.qdrant import QdrantConnection, QdrantSink, QdrantSource
from nvisy_connectors.vector.qdrant.points import to_uuids
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_connectors.vector.qdrant.source import QdrantSourceParams
from nvisy_connectors.vector.qdrant.store import Collection, Points
from nvisy_dagster.sdk import ConfigError, DataError, Progress, TransientError

pytestmark = pytest.mark.anyio


async def count(collection, connection):
    store = connection.store(collection)
    await store.open()
    try:
        return len((await store.page(None, 1000)).ids)
    finally:
        await store.close()


async def failing_write(server, collection, *faults, sizes=(4,)):
    """The error of a write while these faults are on, and the sink's rows."""
    rows = embeddings(sizes)
    async with QdrantSink(QdrantSinkParams(collection=collection), server.connection) as sink:
        await sink.start(Progress("run", 0))
        await sink.write(rows.slice(0, 1))
        server.set_faults(*faults)
        with pytest.raises((ConfigError, DataError, TransientError)) as caught:
            await sink.write(rows)
        server.set_faults()
        await sink.write(rows)
        await sink.commit(1)
    assert await count(collection, server.connection) == rows.num_rows
    return caught.value


async def test_slowing_down_is_honoured(server, collection):
    fault = {"kind": "status", "status": 429, "retry_after": "7"}
    error = await failing_write(server, collection, fault)
    assert isinstance(error, TransientError)
    assert (error.retry_after, error.tag) == (7.0, "rate_limit")


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 429, "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 503},
        {"kind": "hang"},
        {"kind": "partial"},
        {"kind": "cut"},
        {"kind": "acknowledge"},
    ],
    ids=lambda fault: "-".join(str(v) for v in fault.values())[:20],
)
async def test_what_may_pass_is_transient(server, collection, fault):
    assert isinstance(await failing_write(server, collection, fault), TransientError)


async def test_a_refused_point_is_named_and_the_others_written(server, collection):
    rows = embeddings([9])
    ids = to_uuids(rows.column("_id"))
    async with QdrantSink(QdrantSinkParams(collection=collection), server.connection) as sink:
        await sink.start(Progress("run", 0))
        server.set_faults({"kind": "refuse", "ids": [ids[2], ids[7]], "times": 100})
        with pytest.raises(DataError) as caught:
            await sink.write(rows)
    assert dict(caught.value.rows) == {2: "switched on: refuse", 7: "switched on: refuse"}
    assert await count(collection, server.connection) == 7


async def test_rows_refused_here_and_there_keep_their_numbers(server, collection):
    rows = embeddings([9])
    vectors = np.array(rows.column("vector").to_pylist(), np.float32)
    vectors[0, 0] = np.nan
    place = rows.schema.get_field_index("vector")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    rows = rows.set_column(place, rows.schema.field(place), column)
    ids = to_uuids(rows.column("_id"))
    async with QdrantSink(QdrantSinkParams(collection=collection), server.connection) as sink:
        await sink.start(Progress("run", 0))
        server.set_faults({"kind": "refuse", "ids": [ids[5]], "times": 100})
        with pytest.raises(DataError) as caught:
            await sink.write(rows)
    assert set(caught.value.rows) == {0, 5}


async def test_when_every_point_is_refused_the_params_are_wrong(server, collection):
    store = server.connection.store(collection)
    await store.open()
    try:
        await store.create(Collection(4, "cosine"))
        server.set_faults()
        wrong = Points(
            ids=to_uuids(embeddings([100]).column("_id")),
            vectors=np.ones((100, 3), np.float32),
            payloads=[{}] * 100,
        )
        with pytest.raises(ConfigError, match="expected dim: 4, got 3"):
            await store.upsert(wrong)
        assert len(server.requests("PUT", "/points")) == 3, "not one request for each point"
    finally:
        await store.close()


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_a_wrong_key_is_the_users_to_correct(server, collection, key):
    connection = QdrantConnection(url=server.url, api_key=SecretStr(key) if key else None)
    with pytest.raises(ConfigError) as caught:
        async with QdrantSink(QdrantSinkParams(collection=collection), connection):
            pass
    assert caught.value.tag == "auth"


async def test_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    connection = QdrantConnection(url=f"http://127.0.0.1:{port}")
    with pytest.raises(TransientError, match=f"cannot reach qdrant://127.0.0.1:{port}/docs"):
        async with QdrantSink(QdrantSinkParams(collection="docs"), connection):
            pass


async def test_writes_wait_and_the_root_field_is_indexed(server, collection):
    server.set_faults()
    params = QdrantSinkParams(collection=collection, batch_rows=3)
    async with QdrantSink(params, server.connection) as sink:
        await sink.start(Progress("run", 0))
        for unit in sink.split(embeddings([8])):
            await sink.write(unit)
        await sink.commit(1)
    puts = server.requests("PUT", f"/{collection}/points")
    assert [put["query"]["wait"] for put in puts] == ["true"] * 3
    assert len(server.requests("PUT", f"/{collection}/index")) == 1
    assert not server.requests("POST", "/points/delete"), "nothing can be stale in a new collection"


async def test_a_crash_between_upsert_and_delete_is_mended_by_the_replay(server, collection):
    params = QdrantSinkParams(collection=collection)

    async def run(rows):
        async with QdrantSink(params, server.connection, node_id="index") as sink:
            await sink.start(Progress("run", 0))
            await sink.write(rows)
            await sink.commit(1)

    await run(embeddings([6]))
    server.set_faults({"kind": "status", "method": "POST", "path": "/points/delete"})
    with pytest.raises(TransientError):
        await run(embeddings([2]))
    assert await count(collection, server.connection) == 6, "stale, never lost"
    await run(embeddings([2]))
    assert await count(collection, server.connection) == 2


async def test_points_of_others_become_root_records(server, collection):
    store = server.connection.store(collection)
    await store.open()
    try:
        await store.create(Collection(2, "dot"))
        await store.upsert(
            Points(
                ids=[7, "0b4c9a52-5a7c-4f1e-9f7d-3f1f0c1b2a3d"],
                vectors=np.array([[1, 2], [3, 4]], np.float32),
                payloads=[{"text": "seven", "n": 1.5, "_root_id": 5}, {"tokens": 2**40, "x": [1]}],
            )
        )
    finally:
        await store.close()
    params = QdrantSourceParams(collection=collection, columns={"n": "number"}, model="theirs")
    async with QdrantSource(params, server.connection) as source:
        rows = [row async for batch in source.read(None) for row in batch.data.to_pylist()]
    by_text = {row["text"]: row for row in rows}
    assert by_text["seven"]["n"] == 1.5
    assert by_text["seven"]["model"] == "theirs"
    assert by_text[None]["payload"] == '{"x":[1]}'
    assert by_text[None]["tokens"] is None, "does not fit 32 bits"
    assert all(row["_root_id"] == row["_id"] and row["_parent_ids"] == [] for row in rows)
    assert {row["_source"]["uri"] for row in rows} == {source.location()}
