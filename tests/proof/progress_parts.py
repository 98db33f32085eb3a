"""A source, an action and a sink in memory, which do as a test tells them."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint

import anyio.lowlevel
import numpy as np
import pyarrow as pa

from nvisy_dagster.engine.drain import StopRequest
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import (
    Action,
    Batch,
    Capabilities,
    Cursor,
    DataError,
    EdgeType,
    Params,
    Sink,
    Source,
    TransientError,
)
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids


class CrashError(BaseException):
    """The end of an attempt that cleans nothing up."""


@dataclass
class World:
    """What happens around a run, and what is durable in it."""

    rows: int = 0
    batch_rows: int = 1
    crash_at: int | None = None
    """The source crashes instead of reading this record."""
    drain_at: int | None = None
    """Instead of reading this record, the source asks the run to stop, and waits."""
    refused: set[int] = field(default_factory=set[int])
    stumbles: dict[int, int] = field(default_factory=dict[int, int])
    """Record -> how often a write with it fails transiently before it succeeds."""
    table: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """What is durable: id -> number."""
    buffer: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """What is written and not yet committed; a crash takes it away."""
    furthest: int = 0
    """First record that was never read."""
    stop: StopRequest = field(default_factory=StopRequest)


world = World()


def registry() -> Registry:
    """A registry of the components of this module alone."""
    return Registry(
        {n: EntryPoint(n, __name__, "nvisy.connectors") for n in ("told", "memory")},
        {"judge": EntryPoint("judge", __name__, "nvisy.actions")},
    )


class NoParams(Params):
    """Nothing to say."""


class ToldCursor(Cursor):
    """Where the source stands."""

    after: int


class ToldSource(Source[NoParams, ToldCursor]):
    """Count, crash or drain, as the world says."""

    name = "told"

    def output(self) -> EdgeType:
        return EdgeType("row")

    async def read(self, cursor: ToldCursor | None) -> AsyncGenerator[Batch[ToldCursor], None]:
        first = cursor.after if cursor else 0
        while first < world.rows:
            if world.crash_at is not None and first >= world.crash_at:
                raise CrashError
            if world.drain_at is not None and first >= world.drain_at:
                world.stop.request()
                await anyio.sleep_forever()
            numbers = np.arange(first, min(first + world.batch_rows, world.rows))
            first = int(numbers[-1]) + 1
            world.furthest = max(world.furthest, first)
            columns = pa.record_batch({"n": numbers})
            ids = root_ids("told:", numbers)
            data = with_envelope(columns, ids=ids, uri="told:", positions=numbers)
            yield Batch(data, ToldCursor(after=first))


class JudgeAction(Action[NoParams]):
    """Refuse what the world refuses; sevens are dropped."""

    name = "judge"
    capabilities = Capabilities(concurrency=3)

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        numbers = batch["n"].to_pylist()
        await anyio.lowlevel.checkpoint()
        guilty = [row for row, n in enumerate(numbers) if n in world.refused]
        if guilty:
            # Half of them do not say which rows are guilty: those are searched.
            told = {row: f"{numbers[row]} is refused" for row in guilty}
            raise DataError("refused", rows=told if numbers[guilty[0]] % 2 else {})
        return batch.filter(pa.array([n % 7 != 0 for n in numbers], pa.bool_()))


class MemorySink(Sink[NoParams]):
    """Upsert into a dictionary; durable when it is committed."""

    name = "memory"
    capabilities = Capabilities(write_mode="upsert", concurrency=2, max_rows=5)

    async def write(self, batch: pa.RecordBatch) -> None:
        rows = dict(zip(batch["_id"].to_pylist(), batch["n"].to_pylist(), strict=True))
        for n in rows.values():
            if world.stumbles.get(n, 0) > 0:
                world.stumbles[n] -= 1
                raise TransientError("it stumbled")
        await anyio.lowlevel.checkpoint()
        world.buffer |= rows

    async def commit(self, epoch: int) -> None:
        world.table |= world.buffer
        world.buffer.clear()
