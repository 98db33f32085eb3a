"""Components that exist to be measured around: a source, an action and a sink that do nothing."""

from collections.abc import AsyncGenerator
from importlib.metadata import EntryPoint, entry_points

import numpy as np
import pyarrow as pa
from pydantic import Field

from nvisy_dagster.registry import ACTIONS, CONNECTORS, Registry
from nvisy_dagster.sdk import (
    Action,
    Batch,
    Capabilities,
    Cursor,
    EdgeType,
    KernelAction,
    Params,
    Sink,
    Source,
)
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids


def registry() -> Registry:
    """What is installed, and the components of this module."""

    def points(group: str, *names: str) -> dict[str, EntryPoint]:
        installed = {point.name: point for point in entry_points(group=group)}
        return installed | {name: EntryPoint(name, __name__, group) for name in names}

    return Registry(
        points(CONNECTORS, "counter", "discard"), points(ACTIONS, "pass", "pass_in_thread")
    )


class NoParams(Params):
    """Nothing to say."""


class CounterParams(Params):
    """How much to make."""

    batches: int = Field(ge=1)
    """Batches to make."""
    batch_rows: int = Field(default=10, ge=1)
    """Records of each."""


class CounterCursor(Cursor):
    """Where the counter stands."""

    batches: int


class CounterSource(Source[CounterParams, CounterCursor]):
    """Send one small batch again and again."""

    name = "counter"

    def output(self) -> EdgeType:
        """Rows."""
        return EdgeType("row")

    async def read(
        self, cursor: CounterCursor | None
    ) -> AsyncGenerator[Batch[CounterCursor], None]:
        """The same batch every time: making one costs more than the engine does."""
        numbers = np.arange(self.params.batch_rows)
        columns = pa.record_batch({"n": numbers})
        data = with_envelope(
            columns, ids=root_ids("count:", numbers), uri="count:", positions=numbers
        )
        for number in range(cursor.batches if cursor else 0, self.params.batches):
            yield Batch(data, CounterCursor(batches=number + 1))


class PassAction(Action[NoParams]):
    """Pass on."""

    name = "pass"
    capabilities = Capabilities(row_wise=True)

    def output(self, incoming: EdgeType) -> EdgeType:
        """What came in."""
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch itself."""
        return batch


class PassInThreadAction(KernelAction[NoParams]):
    """Pass on, by way of a worker thread."""

    name = "pass_in_thread"
    capabilities = Capabilities(row_wise=True)

    def output(self, incoming: EdgeType) -> EdgeType:
        """What came in."""
        return incoming

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch itself."""
        return batch


class DiscardSink(Sink[NoParams]):
    """Take everything and keep nothing."""

    name = "discard"
    capabilities = Capabilities(write_mode="upsert", concurrency=4)

    async def write(self, batch: pa.RecordBatch) -> None:
        """Nothing."""

    async def commit(self, epoch: int) -> None:
        """Nothing."""
