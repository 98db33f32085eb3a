"""A document that is told of twice in one run, which began over nothing."""

import numpy as np
import pyarrow as pa
import pytest
from test_qdrant_sink import ids_of, stored, write
from vector_records import embeddings

from nvisy_connectors.vector.qdrant import QdrantSink
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_connectors.vector.qdrant.stale import WrittenRoots
from nvisy_dagster.sdk import Progress

pytestmark = pytest.mark.anyio


def roots_of(batch):
    return batch.column("_root_id").unique()


@pytest.mark.parametrize("there", [False, True], ids=["missing", "empty"])
@pytest.mark.parametrize("replace_root", [True, False])
async def test_the_later_version_replaces_the_earlier_one(
    collection, connection, replace_root, there
):
    params = QdrantSinkParams(collection=collection, replace_root=replace_root)
    if there:
        await write(params, connection, embeddings([1]))
        async with QdrantSink(params, connection, node_id="index") as sink:
            await sink.start(Progress("run", 1))
            await sink.remove(roots_of(embeddings([1])))
            await sink.commit(2)
        assert await stored(collection, connection) == {}
    first, second = embeddings([5, 3, 4]), embeddings([2], seed=1)
    gone = roots_of(first)[2:]
    async with QdrantSink(params, connection, node_id="index") as sink:
        await sink.start(Progress("run", 0))
        await sink.remove(roots_of(first))
        await sink.write(first)
        await sink.commit(1)
        await sink.remove(pa.concat_arrays([roots_of(second), gone]))
        await sink.write(second)
        await sink.commit(2)
    assert set(await stored(collection, connection)) == ids_of(second) | ids_of(first.slice(5, 3))


async def test_a_document_that_is_written_anew_needs_no_removal(collection, connection):
    params = QdrantSinkParams(collection=collection)
    await write(params, connection, embeddings([5, 3]), embeddings([2], seed=1))
    wanted = ids_of(embeddings([2])) | ids_of(embeddings([5, 3]).slice(5, 3))
    assert set(await stored(collection, connection)) == wanted


async def test_documents_that_come_once_cost_no_request(server, collection):
    params = QdrantSinkParams(collection=collection)
    rows = embeddings([5, 3, 4])
    asked = len(server.requests("POST", f"{collection}/points/delete"))
    await write(params, server.connection, rows.slice(0, 5), rows.slice(5, 3), rows.slice(8))
    assert len(server.requests("POST", f"{collection}/points/delete")) == asked == 0
    await write(params, server.connection, rows)
    assert len(server.requests("POST", f"{collection}/points/delete")) > 0


def test_no_written_root_is_forgotten():
    numbers = np.random.default_rng(5).integers(0, 2**64, (40_000, 2), np.uint64)
    roots = numbers.view("V16").ravel()
    written = WrittenRoots()
    assert not written.among(roots).any()
    written.add(roots[:20_000])
    assert written.among(roots[:20_000]).all()
    assert written.among(roots[20_000:]).mean() < 0.01
