"""Records to write, with envelopes."""

import datetime as dt

import numpy as np
import pyarrow as pa

from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

MOMENT = dt.datetime(2024, 5, 17, 12, 30, 15, 123_456, tzinfo=dt.UTC)


def records(columns: dict | pa.RecordBatch, first: int = 0) -> pa.RecordBatch:
    """These columns after an envelope; ids depend on the position, from `first` on."""
    payload = columns if isinstance(columns, pa.RecordBatch) else pa.record_batch(columns)
    positions = np.arange(first, first + payload.num_rows)
    return with_envelope(
        payload,
        ids=root_ids("sql:", positions),
        uri="sql:",
        positions=positions,
        created_at=MOMENT,
        metadata=pa.array(['{"a": 1}'] * payload.num_rows, pa.string()),
    )
