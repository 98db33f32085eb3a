"""Embeddings to put into a vector store."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from nvisy_dagster.sdk.envelope import derive, with_envelope
from nvisy_dagster.sdk.identity import root_ids


def embeddings(
    sizes: Sequence[int], *, dimension: int = 8, seed: int = 0, uri: str = "file:///docs"
) -> pa.RecordBatch:
    """Embeddings of chunks of documents: one document for each size, of so many chunks."""
    documents = len(sizes)
    positions = np.arange(documents, dtype=np.int64)
    roots = with_envelope(
        pa.record_batch({"text": [f"document {i}" for i in range(documents)]}),
        ids=root_ids(uri, positions),
        uri=uri,
        positions=positions,
        metadata=pa.array([json.dumps({"document": i}) for i in range(documents)], pa.string()),
    )
    rows = np.repeat(positions, sizes)
    n = len(rows)
    indexes = np.concatenate([np.arange(size) for size in sizes]).astype(np.int64)
    vectors = np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = pa.record_batch(
        [
            pa.array([f"chunk {i} of document {d}" for i, d in zip(indexes, rows, strict=True)]),
            pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension),
            pa.array(["test"] * n),
            pa.array(np.full(n, 4, np.int32)),
            pa.array(indexes, pa.int32()),
        ],
        schema=pa.schema([
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("tokens", pa.int32()),
            pa.field("index", pa.int32()),
        ]),
    )
    return derive(roots, rows, columns, node_id="chunk", indexes=indexes)
