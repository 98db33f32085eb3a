"""The task of a source: read, send on, cut barriers when asked to."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from nvisy_dagster.engine.bad_records import refused_by_source
from nvisy_dagster.engine.channel import Outlet
from nvisy_dagster.engine.drain import ReadStoppedError
from nvisy_dagster.engine.failure import BEGIN_ANEW, StorageError
from nvisy_dagster.engine.message import Barrier
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.engine.versions import Versions
from nvisy_dagster.sdk import Cursor, RejectedRecord, Source

Slice = tuple[pa.RecordBatch, Mapping[str, Any], Sequence[RejectedRecord]]
"""A batch that was read, the cursor after it, and what could not become a record in between."""


async def read_source(
    running: RunningNode, source: Source[Any, Any], cursor: Mapping[str, Any] | None
) -> AsyncGenerator[Slice, None]:
    """Batches of a source; after a transient error it reads on from its last cursor."""
    position = None if cursor is None else _position(source, cursor)
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
    running: RunningNode, slices: AsyncGenerator[Slice, None], outlet: Outlet
) -> None:
    """Send on what a source reads, cutting barriers when asked to."""
    name, epochs, versions = running.node.id, running.epochs, Versions()
    cursor, done = epochs.position(name).cursor, epochs.position(name).done

    async def cut() -> None:
        versions.clear()
        epoch = epochs.cut(name, cursor)
        await running.pass_barrier(epoch)
        await outlet.send(Barrier(epoch))

    async with aclosing(slices):
        try:
            while not done and (read := await epochs.reads.next(slices)) is not None:
                data, after, bad = read
                if running.changes is not None:
                    roots = running.changes.roots()
                    if versions.meet([*roots.told, *roots.gone]):
                        await epochs.cut_here(name, cut)
                    versions.add(roots.told)
                cursor = after
                running.metrics.counts.records_in += data.num_rows + len(bad)
                refused = list(refused_by_source(bad))
                for rejected in refused:
                    await running.reject(rejected)
                running.saw(data, refused)
                epochs.read_rows(data.num_rows + len(bad))
                if data.num_rows:
                    running.metrics.sent(data)
                    await outlet.send(data)
                if running.changes is not None:
                    await running.changes.sent(running.metrics.counts, running.kept, outlet)
                if epochs.due(name):
                    await cut()
        except ReadStoppedError:
            await epochs.cut_final(name, cut)
            return
    epochs.exhausted(name)
    await running.pass_end()
    await outlet.end()
