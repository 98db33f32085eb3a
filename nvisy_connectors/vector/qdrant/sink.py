"""Writing embeddings to Qdrant."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pyarrow as pa
from pydantic import Field

from nvisy_connectors.vector.qdrant.connection import QdrantConnection
from nvisy_connectors.vector.qdrant.points import VECTOR, dimension_of, to_points, unfit_rows
from nvisy_connectors.vector.qdrant.stale import Epoch, WrittenRoots
from nvisy_connectors.vector.qdrant.store import (
    GRAPH_FIELD,
    SINK_FIELD,
    Collection,
    CollectionName,
    Distance,
    Owner,
    Store,
    missing,
)
from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    Connection,
    DataError,
    EdgeType,
    Params,
    Progress,
    Sink,
    connection_of,
)
from nvisy_dagster.sdk.envelope import payload_schema
from nvisy_dagster.sdk.search import Hit

SERVER_ROWS = 512
FOLDER_ROWS = 2_000


class QdrantSinkParams(Params):
    """Params of `QdrantSink`."""

    collection: CollectionName
    """Collection to write; created when missing, with the dimension of the vectors."""
    distance: Distance = "cosine"
    """How near two vectors are; with `cosine` Qdrant stores them normalised to length 1."""
    create: bool = True
    """Create the collection when it is missing; otherwise that is an error."""
    payload: tuple[str, ...] | None = None
    """Columns to store beside the vector; by default all. The envelope is always stored."""
    replace_root: bool = True
    """Remove what this node wrote before for the same source records and did not write again, so
    that a document which became shorter leaves no stale chunks."""
    batch_rows: int | None = Field(default=None, ge=1, le=100_000)
    """Points of one request; by default 512 for a server and 2,000 for a local folder."""


class QdrantSink(Sink[QdrantSinkParams]):
    """Upserts embeddings into a Qdrant collection, on a server or in a local folder.

    The record's `_id` is the point's id, so that writing a record again replaces it. The payload
    holds the columns beside the vector and the envelope; `_sink` is the id of this node and
    `_graph` the name of its graph.
    """

    name = "qdrant"
    connection_type = QdrantConnection
    accepts = frozenset({"embedding"})
    capabilities = Capabilities(write_mode="upsert", concurrency=4, removes=True)
    requires = ("qdrant_client", "qdrant_edge", "orjson", "filelock")
    extra = "vector"

    def __init__(
        self,
        params: QdrantSinkParams,
        connection: Connection | None = None,
        *,
        node_id: str = "",
        folder: Path | None = None,
    ) -> None:
        super().__init__(params, connection, node_id=node_id, folder=folder)
        self._store: Store | None = None
        self._found: Collection | None = None
        self._ready = False
        self._preparing = anyio.Lock()
        self._renews = params.replace_root
        self._removes = True
        self._owner = Owner("", node_id)
        self._epoch = Epoch()
        self._written: WrittenRoots | None = None

    def location(self) -> str | None:
        """URI of the collection."""
        if not isinstance(self.connection, QdrantConnection):
            return None
        return self.connection.collection_location(self.params.collection)

    def check(self, incoming: EdgeType) -> None:
        """Refuse what has no vectors, or lacks a column to store.

        Raises:
            ConfigError: The incoming records do not fit.
        """
        if incoming.primitive not in self.accepts:
            raise ConfigError(
                f"a qdrant sink takes embeddings, not {incoming.primitive!r}",
                remedy="put an 'embed' action before it",
                tag="schema",
            )
        if incoming.schema is not None:
            self._dimension(incoming.schema)
            self._columns(incoming.schema)

    def split(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Cut a batch into what one request carries."""
        embedded = isinstance(self.connection, QdrantConnection) and self.connection.url is None
        rows = self.params.batch_rows or (FOLDER_ROWS if embedded else SERVER_ROWS)
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)

    async def open(self) -> None:
        """Reach the server or open the folder, and see whether the collection is there.

        Raises:
            ConfigError: The credentials are refused, or the collection holds no plain vectors.
            TransientError: The server cannot be reached, or another process holds the folder.
        """
        connection: QdrantConnection = connection_of(self, QdrantConnection)
        store = connection.store(self.params.collection)
        self.stack.push_async_callback(store.close)
        await store.open()
        self._found = await store.describe()
        self._store = store

    async def start(self, progress: Progress) -> None:
        """See whether there can be anything stale.

        Raises:
            ConfigError: The collection is missing and must not be created.
        """
        store = self._opened()
        self._owner = Owner(progress.graph, self.node_id)
        if self._found is None and not self.params.create:
            raise ConfigError(
                f"there is no collection {self.params.collection!r} in {self._place()}, and "
                "'create' is false",
                remedy="create the collection, or set 'create' to true",
                tag="not_found",
            )
        if progress.partial:
            # The other chunks of a document whose chunk is replayed are not stale.
            self._renews = False
            self._removes = False
        elif progress.epoch == 0 and (self._found is None or await store.is_empty()):
            # A run that resumes finds its own points. In a fresh run over nothing, only what it
            # wrote itself can be old: a document that changes meanwhile is read again.
            self._written = WrittenRoots()

    async def write(self, batch: pa.RecordBatch) -> None:
        """Upsert one unit; on a server it is durable when this returns, in a folder at `commit`.

        Raises:
            DataError: Some vectors are null or not finite, or Qdrant refuses some points.
            ConfigError: The collection has another dimension or distance.
            TransientError: The same call may succeed later.
        """
        if not batch.num_rows:
            return
        dimension = self._dimension(batch.schema)
        columns = self._columns(batch.schema)
        store = await self._prepared(dimension)
        reasons = unfit_rows(batch.column(VECTOR))
        fit = np.setdiff1d(np.arange(batch.num_rows), np.fromiter(reasons, np.int64, len(reasons)))
        good = batch.take(pa.array(fit)) if reasons else batch
        if good.num_rows:
            convert = partial(to_points, good, columns=columns, owner=self._owner)
            points = await anyio.to_thread.run_sync(convert)
            refused = await store.upsert(points)
            reasons |= {int(fit[row]): reason for row, reason in refused.items()}
            if self._renews or self._removes:
                self._epoch.add(_without(good, refused))
        if reasons:
            raise DataError(
                f"{len(reasons)} of {batch.num_rows} records cannot be stored in {self._place()}",
                rows=reasons,
            )

    async def remove(self, root_ids: pa.Array) -> None:
        """Note what `commit` is to remove: whatever was made of these roots before this epoch."""
        if self._removes:
            self._epoch.remove(root_ids)

    async def commit(self, epoch: int) -> None:  # noqa: ARG002 - the same work at every barrier
        """Make everything durable, then remove what it has made stale.

        In this order, so that a crash between the two leaves stale points, which the replay
        removes, and never loses one.
        """
        store = self._opened()
        if not self._ready:
            if self._found is None or not self._epoch.removes:
                return
            await store.index_root()
        await store.flush()
        stale = False
        for renewal in self._epoch.renewals(every_root=self._renews, among=self._written):
            await store.delete_stale(self._owner, renewal.roots, renewal.keep)
            stale = True
        if stale:
            await store.flush()
        if self._written is not None:
            self._epoch.note_roots(self._written)
        self._epoch.clear()

    async def search(self, vector: Sequence[float], limit: int) -> Sequence[Hit]:
        """The `limit` records nearest to `vector`, best first; needs `open`, not `start`.

        Raises:
            ConfigError: There is no such collection, or its vectors have another dimension.
            TransientError: The system cannot be reached now.
        """
        store = self._opened()
        found = self._found or await store.describe()
        if found is None:
            raise missing(self.params.collection, connection_of(self, QdrantConnection).location())
        if len(vector) != found.dimension:
            raise self._other_dimension(len(vector), found)
        return await store.search(vector, limit)

    async def _prepared(self, dimension: int) -> Store:
        """The store, with a collection that takes vectors of this dimension."""
        store = self._opened()
        async with self._preparing:
            if not self._ready:
                wanted = Collection(dimension, self.params.distance)
                if self._found is None:
                    await store.create(wanted)
                    self._found = await store.describe()
                elif self.params.replace_root:
                    self._agree(wanted)
                    await store.index_root()
                self._ready = True
            self._agree(Collection(dimension, self.params.distance))
        return store

    def _agree(self, wanted: Collection) -> None:
        found = self._found
        if found is None:
            raise missing(self.params.collection, self._place())
        if wanted.dimension != found.dimension:
            raise self._other_dimension(wanted.dimension, found)
        if wanted.distance != found.distance:
            raise ConfigError(
                f"collection {self.params.collection!r} in {self._place()} measures by "
                f"{found.distance!r}, the param 'distance' says {wanted.distance!r}",
                remedy="set 'distance' to that of the collection, or use another collection",
                tag="schema",
            )

    def _other_dimension(self, dimension: int, found: Collection) -> ConfigError:
        return ConfigError(
            f"the vectors have dimension {dimension}, but collection {self.params.collection!r} "
            f"in {self._place()} has {found.dimension}",
            remedy="use the model that wrote the collection, or another collection",
            tag="schema",
        )

    def _dimension(self, schema: pa.Schema) -> int:
        index = schema.get_field_index(VECTOR)
        dimension = None if index < 0 else dimension_of(schema.field(index).type)
        if dimension is None:
            found = "there is none" if index < 0 else f"it is {schema.field(index).type}"
            raise ConfigError(
                f"column {VECTOR!r} must hold vectors of one dimension (fixed_size_list of "
                f"floats); {found}",
                remedy="put an 'embed' action before the sink",
                tag="schema",
            )
        return dimension

    def _columns(self, schema: pa.Schema) -> list[str]:
        there = [
            n for n in payload_schema(schema).names if n not in {VECTOR, SINK_FIELD, GRAPH_FIELD}
        ]
        if self.params.payload is None:
            return there
        absent = [name for name in self.params.payload if name not in there]
        if absent:
            raise ConfigError(
                f"param 'payload' names columns that do not arrive: {', '.join(absent)}",
                remedy=f"choose from {', '.join(there) or 'none'}",
                tag="schema",
            )
        return list(self.params.payload)

    def _opened(self) -> Store:
        if self._store is None:
            raise RuntimeError("the sink is not open")
        return self._store

    def _place(self) -> str:
        return connection_of(self, QdrantConnection).location()


def _without(batch: pa.RecordBatch, rows: Iterable[int]) -> pa.RecordBatch:
    refused = list(rows)
    if not refused:
        return batch
    return batch.take(pa.array(np.setdiff1d(np.arange(batch.num_rows), np.array(refused))))
