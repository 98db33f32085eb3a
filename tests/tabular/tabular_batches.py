"""Batches for the tests of the relational actions."""

from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_dagster.sdk import EdgeType
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

URI = "file:///data/rows.jsonl"


def batch_of(columns: dict[str, Any] | pa.RecordBatch) -> pa.RecordBatch:
    """The columns, with an envelope before them."""
    batch = columns if isinstance(columns, pa.RecordBatch) else pa.record_batch(columns)
    positions = np.arange(batch.num_rows)
    ids = root_ids(URI, positions)
    return with_envelope(batch, ids=ids, uri=URI, positions=positions)


def edge(columns: dict[str, Any] | pa.RecordBatch, primitive: str = "row") -> EdgeType:
    """The type of the edge that carries such a batch."""
    return EdgeType(primitive, batch_of(columns).schema)


def articles() -> pa.RecordBatch:
    """Eight records with NULLs, of the columns most tests use."""
    return batch_of({
        "lang": ["en", "de", "en", None, "fr", "en", "de", "en"],
        "score": [0.9, 0.8, 0.1, 0.7, None, 0.5, 0.2, 0.3],
        "text": ["A b", "Über", "", None, "x", "Y", "z", "Q'q"],
        "digits": ["1", "2", "x", "4", None, "6", "seven", "8"],
    })
