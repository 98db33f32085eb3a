"""The task of a source: read, send on, cut barriers when asked to."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import pyarrow as pa
from anyio import to_thread
from pydantic import ValidationError

from nvisy_dagster.engine.bad_records import refused_by_source
from nvisy_dagster.engine.channel import Outlet
from nvisy_dagster.engine.drain import ReadStoppedError
from nvisy_dagster.engine.failure import BEGIN_ANEW, StorageError
from nvisy_dagster.engine.message import Barrier
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.engine.rejection import Rejected
from nvisy_dagster.engine.versions import Versions
from nvisy_dagster.sdk import Cursor, RejectedRecord, Source

Slice = tuple[pa.RecordBatch, Mapping[str, Any], Sequence[RejectedRecord]]
"""A batch that was read, the cursor after it, and what could not become a record in between."""


async def read_source(
    running: RunningNode, source: Source[Any, Any]
) -> AsyncGenerator[Slice, None]:
    """Batches of a source; after a transient error it reads on from its last cursor."""
    there = running.epochs.position(running.node.id)
    if there.done:
        return
    position = None if there.cursor is None else _position(source, there.cursor)
    if source.skips_bad_records and running.node.policies.on_error != "fail":
        source.bad_records = "reject"
    if running.changes is not None:
        async with aclosing(running.changes.slices(running.caller, source, position)) as slices:
            async for data, after, rejected in slices:
                yield data, after, rejected
        return
    read = running.caller.read_on(lambda: source.read(position), lambda b: b.data.num_rows)
    async with aclosing(read) as batches:
        async for batch in batches:
            position = batch.cursor
            yield batch.data, batch.cursor.model_dump(mode="json"), batch.rejected


def _position(source: Source[Any, Any], cursor: Mapping[str, Any]) -> Cursor:
    try:
        return source.cursor_type.model_validate(cursor)
    except ValidationError as error:
        raise StorageError(
            "another version of the connector wrote the position in the checkpoint",
            remedy=BEGIN_ANEW,
        ) from error


async def run_source(
    running: RunningNode,
    source: Source[Any, Any],
    slices: AsyncGenerator[Slice, None],
    outlet: Outlet,
) -> None:
    """Send on what a source reads, cutting barriers when asked to."""
    reading, whole = _Reading(running, source, outlet), False
    async with aclosing(slices), anyio.create_task_group() as tasks:
        tasks.start_soon(reading.cut_meanwhile)
        whole = await reading.read(slices)
        async with reading.turn:
            tasks.cancel_scope.cancel()
    if whole:
        running.epochs.exhausted(running.node.id)
        await running.pass_end()
        await outlet.end()


class _Reading:
    """A source at work."""

    def __init__(self, running: RunningNode, source: Source[Any, Any], outlet: Outlet) -> None:
        self._running = running
        self._source = source
        self._outlet = outlet
        self._name = running.node.id
        self._cursor = running.epochs.position(self._name).cursor
        self._versions = Versions()
        self.turn = anyio.Lock()
        """Held while something is sent: the cursor tells where the source stands otherwise."""

    async def read(self, slices: AsyncGenerator[Slice, None]) -> bool:
        """Send it all on; whether it came to the end, and was not stopped."""
        epochs, pace = self._running.epochs, self._running.pace
        if epochs.position(self._name).done:
            return True
        try:
            self._source.most_rows = pace.most_rows
            while (read := await epochs.reads.next(slices, self._name)) is not None:
                async with self.turn:
                    await self._send(*read)
                rows = read[0].num_rows + len(read[2])
                pace.sent(rows, requested=epochs.requested, written=epochs.written.epoch)
                self._source.most_rows = pace.most_rows
        except ReadStoppedError:
            async with self.turn:
                await epochs.cut_final(self._name, self._cut)
            return False
        return True

    async def cut_meanwhile(self) -> None:
        """Cut when asked to while the source waits for its next records, for ever."""
        epochs = self._running.epochs
        while True:
            await epochs.wait_until_due(self._name)
            async with self.turn:
                if epochs.due(self._name):
                    await self._cut()

    async def _send(
        self, data: pa.RecordBatch, after: Mapping[str, Any], bad: Sequence[RejectedRecord]
    ) -> None:
        running, epochs = self._running, self._running.epochs
        rows = data.num_rows + len(bad)
        # In a thread: it would hold up all nodes, the more as it waits for those that parse.
        refused = await to_thread.run_sync(_refused, bad) if bad else []
        await epochs.make_room(self._name, rows, self._cut)
        if running.changes is not None:
            roots = running.changes.roots()
            if self._versions.meet([*roots.told, *roots.gone]):
                await epochs.cut_here(self._name, self._cut)
            self._versions.add(roots.told)
        self._cursor = after
        running.metrics.counts.records_in += rows
        for rejected in refused:
            await running.reject(rejected)
        running.saw(data, refused)
        epochs.read_rows(rows)
        if data.num_rows:
            running.metrics.sent(data)
            await self._outlet.send(data)
        if running.changes is not None:
            await running.changes.sent(running.metrics.counts, running.kept, self._outlet)
        if epochs.due(self._name):
            await self._cut()

    async def _cut(self) -> None:
        self._versions.clear()
        epoch = self._running.epochs.cut(self._name, self._cursor)
        await self._running.pass_barrier(epoch)
        await self._outlet.send(Barrier(epoch))


def _refused(bad: Sequence[RejectedRecord]) -> list[Rejected]:
    return list(refused_by_source(bad))
