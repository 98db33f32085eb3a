"""Cut documents into lines."""

import numpy as np
import pyarrow as pa

from nvisy_dagster.sdk import Capabilities, EdgeType, KernelAction, Params
from nvisy_dagster.sdk.envelope import ENVELOPE, derive

PAYLOAD = pa.schema([pa.field("text", pa.string(), nullable=False)])


class LinesParams(Params):
    """What counts as a line."""

    keep_empty: bool = False
    """Whether lines without text become records too."""


class Lines(KernelAction[LinesParams]):
    """Make one record of each line of a document."""

    name = "lines"
    accepts = frozenset({"document"})
    capabilities = Capabilities(row_wise=True, concurrency=4)

    def output(self, incoming: EdgeType) -> EdgeType:
        return EdgeType("row", pa.schema([*ENVELOPE, *PAYLOAD]))

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        found = [
            (row, index, line)
            for row, text in enumerate(batch.column("text").to_pylist())
            for index, line in enumerate(text.splitlines())
            if line or self.params.keep_empty
        ]
        lines = pa.array([line for _, _, line in found], pa.string())
        return derive(
            batch,
            np.array([row for row, _, _ in found], np.int64),
            pa.RecordBatch.from_arrays([lines], schema=PAYLOAD),
            node_id=self.node_id,
            indexes=np.array([index for _, index, _ in found], np.int64),
        )
