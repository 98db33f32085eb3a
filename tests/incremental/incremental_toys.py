"""Components that tests of incremental runs need: an embedding that costs nothing."""

import hashlib
from importlib.metadata import EntryPoint

import numpy as np
import pyarrow as pa

from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import Capabilities, DataError, EdgeType, KernelAction, Params
from nvisy_dagster.sdk.envelope import derive

DIMENSION = 4
PLACES = {
    "local": "nvisy_connectors.object.local",
    "s3": "nvisy_connectors.object.s3",
    "gcs": "nvisy_connectors.object.gcs",
    "azure": "nvisy_connectors.object.azure",
    "qdrant": "nvisy_connectors.vector.qdrant",
    "feed": "incremental_feed",
}


def registry() -> Registry:
    """Local files, object stores, Qdrant, `chunk` and `hash`."""
    actions = {"chunk": "nvisy_connectors.ai.chunk", "hash": __name__}
    return Registry(
        {name: EntryPoint(name, place, "nvisy.connectors") for name, place in PLACES.items()},
        {name: EntryPoint(name, place, "nvisy.actions") for name, place in actions.items()},
    )


class HashParams(Params):
    poison: str = "POISON"
    """A text that holds it is refused."""
    column: str = "text"


class Hash(KernelAction[HashParams]):
    """Embed texts by hashing them; its output is materialized, as if it were paid for."""

    name = "hash"
    accepts = frozenset({"chunk", "document", "row"})
    capabilities = Capabilities(row_wise=True, expensive=True)

    def output(self, incoming: EdgeType) -> EdgeType:
        return EdgeType("embedding", None)

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch.column(self.params.column).to_pylist()
        bad = {row: "poison" for row, text in enumerate(texts) if self.params.poison in text}
        if bad:
            raise DataError("poison", rows=bad)
        digests = b"".join(hashlib.sha256(t.encode()).digest()[: 2 * DIMENSION] for t in texts)
        values = np.frombuffer(digests, np.uint16).astype(np.float32) + 1
        n = len(texts)
        columns = pa.record_batch(
            [
                pa.array(texts, pa.string()),
                pa.FixedSizeListArray.from_arrays(pa.array(values), DIMENSION),
                pa.array(["hash"] * n, pa.string()),
                pa.nulls(n, pa.int32()),
            ],
            schema=pa.schema([
                pa.field("text", pa.string()),
                pa.field("vector", pa.list_(pa.float32(), DIMENSION), nullable=False),
                pa.field("model", pa.string(), nullable=False),
                pa.field("tokens", pa.int32()),
            ]),
        )
        return derive(batch, np.arange(n), columns, node_id=self.node_id)
