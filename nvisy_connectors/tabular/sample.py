"""The action `sample`."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from nvisy_dagster.sdk import Capabilities, EdgeType, KernelAction, Params
from nvisy_dagster.sdk.identity import child_ids

WORDS = 2**64
"""As many words as a hash has."""


class SampleParams(Params):
    """Which records `sample` keeps."""

    fraction: float = Field(gt=0, le=1, examples=[0.1])
    """Share of the records that are kept, such as `0.1` for about one in ten."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Another seed chooses other records. With the same seed a smaller fraction chooses among the
    records of a larger one: give two samples that follow each other different seeds."""
    by: Literal["record", "root"] = "record"
    """What is chosen: each record by itself, or all records that were made of one source record
    together, such as the chunks of a document."""


class Sample(KernelAction[SampleParams]):
    """Keep a random share of the records, always the same ones.

    A record is chosen by a hash of its id and the seed. So a second run, a run that was resumed, a
    replay of dead letters and a graph in which other records come along choose alike. How many are
    kept varies as with any random sample: of a million records and a fraction of 0.1, 100,000 give
    or take a thousand. The records that are kept keep their ids and all their columns.
    """

    name = "sample"
    capabilities = Capabilities(row_wise=True, concurrency=2)

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in."""
        return incoming

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Keep some rows."""
        chosen = self._chosen(batch.column("_root_id" if self.params.by == "root" else "_id"))
        return batch if chosen.all() else batch.filter(pa.array(chosen))

    def _chosen(self, ids: pa.Array) -> npt.NDArray[np.bool_]:
        # A colon is in the id of no node, so no child of the record shares the hash.
        indexes = np.zeros(len(ids), np.int64)
        words = child_ids(ids, f"sample:{self.params.seed}", indexes)[:, 0]
        # The largest word is kept by the fraction 1 alone.
        last = min(int(self.params.fraction * WORDS), WORDS) - 1
        return words <= np.uint64(last) if last >= 0 else np.zeros(len(ids), np.bool_)
