"""Reading embeddings back from Qdrant."""

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from pydantic import Field, field_validator

from nvisy_connectors.vector.qdrant.connection import QdrantConnection
from nvisy_connectors.vector.qdrant.records import ColumnType, schema, to_records
from nvisy_connectors.vector.qdrant.store import CollectionName, PointId, Store, missing
from nvisy_dagster.sdk import (
    Batch,
    Capabilities,
    Connection,
    Cursor,
    EdgeType,
    Identifier,
    Params,
    Source,
    connection_of,
)


class QdrantSourceParams(Params):
    """Params of `QdrantSource`."""

    collection: CollectionName
    """Collection to read."""
    columns: Mapping[Identifier, ColumnType] = Field(default_factory=dict)
    """Payload fields to read as columns, and their types; a value of another type is null."""
    model: str = "unknown"
    """Model to name for points whose payload has no field `model`."""
    batch_rows: int = Field(default=1000, ge=1, le=100_000)
    """Points of one page."""

    @field_validator("columns")
    @classmethod
    def _not_taken(cls, columns: Mapping[str, ColumnType]) -> Mapping[str, ColumnType]:
        taken = [name for name in columns if name in schema(1, {}).names]
        if taken:
            raise ValueError(f"these columns are there anyway: {', '.join(taken)}")
        return columns


class QdrantCursor(Cursor):
    """Where the next page begins."""

    next: PointId | None
    """Id of the next point; `None` when all are read."""


class QdrantSource(Source[QdrantSourceParams, QdrantCursor]):
    """Reads all points of a Qdrant collection, with their vectors, in the order of their ids.

    Points written by a qdrant sink keep their ids and lineage. Payload fields that are not columns
    come as JSON in `payload`. A collection with cosine distance gives vectors of length 1, because
    that is how Qdrant stores them. Points written behind the cursor are not seen again.
    """

    name = "qdrant"
    connection_type = QdrantConnection
    capabilities = Capabilities(replayable=True)
    requires = ("qdrant_client", "qdrant_edge", "filelock")
    extra = "vector"

    def __init__(
        self,
        params: QdrantSourceParams,
        connection: Connection | None = None,
        *,
        node_id: str = "",
        folder: Path | None = None,
    ) -> None:
        super().__init__(params, connection, node_id=node_id, folder=folder)
        self._store: Store | None = None

    def location(self) -> str | None:
        """URI of the collection."""
        if not isinstance(self.connection, QdrantConnection):
            return None
        return self.connection.collection_location(self.params.collection)

    def output(self) -> EdgeType:
        """Embeddings; their dimension is known when the collection is read."""
        return EdgeType("embedding")

    async def open(self) -> None:
        """Reach the server or open the folder.

        Raises:
            ConfigError: The credentials are refused.
            TransientError: The server cannot be reached, or another process holds the folder.
        """
        connection: QdrantConnection = connection_of(self, QdrantConnection)
        store = connection.store(self.params.collection)
        self.stack.push_async_callback(store.close)
        await store.open()
        self._store = store

    async def read(self, cursor: QdrantCursor | None) -> AsyncGenerator[Batch[QdrantCursor], None]:
        """Yield the points from the cursor on, one page a batch.

        Raises:
            ConfigError: There is no such collection, or its points have several vectors.
            TransientError: Reading again from the last cursor may succeed.
        """
        if self._store is None:
            raise RuntimeError("the source is not open")
        connection: QdrantConnection = connection_of(self, QdrantConnection)
        collection = await self._store.describe()
        if collection is None:
            raise missing(self.params.collection, connection.location())
        if cursor is not None and cursor.next is None:
            return
        start = None if cursor is None else cursor.next
        location = connection.collection_location(self.params.collection)
        while True:
            page = await self._store.page(start, self.params.batch_rows)
            if page.ids:
                data = to_records(
                    page,
                    dimension=collection.dimension,
                    columns=self.params.columns,
                    model=self.params.model,
                    location=location,
                )
                yield Batch(data, QdrantCursor(next=page.next))
            start = page.next
            if start is None:
                return
