"""The suites that the SDK demands, over both back ends."""

import json
import uuid

import anyio
import pytest
from vector_records import embeddings

from nvisy_connectors.vector.qdrant import QdrantConnection, QdrantSink, QdrantSource
from nvisy_connectors.vector.qdrant.points import to_uuids
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_connectors.vector.qdrant.source import QdrantSourceParams
from nvisy_dagster.sdk import EdgeType, Progress
from nvisy_dagster.sdk.testing import SinkConformance, SourceConformance


class _SinkSuite(SinkConformance):
    component = QdrantSink
    primitive = "embedding"

    @pytest.fixture
    def params(self, collection):
        return QdrantSinkParams(collection=collection, batch_rows=3)

    @pytest.fixture
    def rows(self):
        # One chunk a document: the suites put any two records into different epochs, which the
        # engine never does with records of one root.
        return embeddings([1] * 8)

    def refused(self, rows):
        place = rows.schema.get_field_index("vector")
        without = rows.schema.remove(place)
        return [EdgeType("embedding", without), EdgeType("chunk", without)]

    async def read_back(self, params, connection):
        store = connection.store(params.collection)
        await store.open()
        try:
            if await store.describe() is None:
                return []
            page = await store.page(None, 1000)
        finally:
            await store.close()
        assert page.next is None
        return [
            {"_id": point, "vector": vector, **_as_columns(payload)}
            for point, vector, payload in zip(
                page.ids, page.vectors.tolist(), page.payloads, strict=True
            )
        ]


def _as_columns(payload):
    return {**payload, "_metadata": json.dumps(payload["_metadata"])}


class TestFolderSink(_SinkSuite):
    @pytest.fixture
    def connection(self, tmp_path):
        return QdrantConnection(path=tmp_path / "vectors")


class TestServerSink(_SinkSuite):
    @pytest.fixture
    def connection(self, server):
        return server.connection


async def _write(params, connection):
    async with QdrantSink(params, connection, node_id="index") as sink:
        await sink.start(Progress("run", 0))
        await sink.write(embeddings([4, 5, 4]))
        await sink.commit(1)


class _SourceSuite(SourceConformance):
    component = QdrantSource

    @pytest.fixture
    def params(self, collection):
        return QdrantSourceParams(collection=collection, columns={"index": "integer"}, batch_rows=5)

    @pytest.fixture(autouse=True)
    def written(self, collection, connection):
        anyio.run(_write, QdrantSinkParams(collection=collection), connection)


class TestFolderSource(_SourceSuite):
    @pytest.fixture
    def connection(self, tmp_path):
        return QdrantConnection(path=tmp_path / "vectors")


class TestServerSource(_SourceSuite):
    @pytest.fixture
    def connection(self, server):
        return server.connection


def test_ids_in_the_store_are_those_of_the_records():
    rows = embeddings([2])
    assert to_uuids(rows.column("_id")) == [
        str(uuid.UUID(bytes=value)) for value in rows.column("_id").to_pylist()
    ]
