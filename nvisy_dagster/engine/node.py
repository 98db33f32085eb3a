"""The task of each kind of node: read the inlet, call the component, write the outlet."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import pyarrow as pa
from pydantic import ValidationError

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.bad_records import refused_by_source
from nvisy_dagster.engine.bookmark import ChangeReader, journal_name
from nvisy_dagster.engine.calls import Caller, OrderedCalls
from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.dead_letter import DeadLetters, listed_as
from nvisy_dagster.engine.drain import ReadStoppedError
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.error_limit import ErrorLimits
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import BEGIN_ANEW, StorageError
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.materialized import Manifest, PartWriter, read_epochs
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.metrics import NodeMetrics, dropped_rows
from nvisy_dagster.engine.rejection import (
    Rejected,
    apply_isolating,
    failed_records,
    write_isolating,
)
from nvisy_dagster.engine.removed import RemovalWriter
from nvisy_dagster.engine.suspects import NodeSuspects
from nvisy_dagster.engine.transaction import commit_with_checkpoint
from nvisy_dagster.sdk import (
    Action,
    Cursor,
    DataError,
    KernelAction,
    RejectedRecord,
    Router,
    Sink,
    Source,
)

WINDOW = 4
"""Results waiting for an earlier one, per call in flight: with a tenth of the calls slow, a window
of four keeps 0.82 of the ideal throughput where one keeps 0.28."""

Slice = tuple[pa.RecordBatch, Mapping[str, Any], Sequence[RejectedRecord]]
"""A batch that was read, the cursor after it, and what could not become a record in between."""


@dataclass
class RunningNode:
    """What every task of a node works with."""

    node: Node
    metrics: NodeMetrics
    caller: Caller
    epochs: Epochs
    dead_letters: DeadLetters
    limits: ErrorLimits
    epoch: int
    """Epoch of the last barrier that it passed on."""
    lease: Lease
    changes: ChangeReader | None = None
    """Of a source that reads only what changed."""
    kept: list[pa.Array] = field(default_factory=list[pa.Array])
    """Roots of records that it refused in this epoch: a removal leaves them alone."""
    suspects: NodeSuspects = field(default_factory=NodeSuspects)
    """Records that may have killed an earlier process."""
    checkpoint_key: str | None = None
    """Of a sink that commits the stage's checkpoint with its records: its name there."""

    @property
    def concurrency(self) -> int:
        """Calls that may be in flight."""
        asked = self.node.policies.concurrency.max_per_node
        return asked or self.node.component.capabilities.concurrency

    async def reject(self, rejected: Rejected) -> None:
        """Treat refused records as the node's policy says.

        Raises:
            NodeError: The policy is to fail.
        """
        counts = self.metrics.counts
        self.kept.append(rejected.records.column("_root_id"))
        if self.node.policies.on_error != "fail":
            counts.failed += rejected.records.num_rows
        match self.node.policies.on_error:
            case "fail":
                raise failed_records(self.node.id, rejected)
            case "drop":
                counts.dropped += rejected.records.num_rows
            case "dead_letter":
                await self.dead_letters.add(rejected)
                counts.dead += rejected.records.num_rows
        self.limits.check(self.node, self.metrics)

    async def pass_barrier(self, epoch: int) -> None:
        """What is due before a barrier goes on: dead letters durable, counts cut."""
        if self.changes is not None:
            part = await self.changes.commit(epoch)
            self.epochs.keep(journal_name(self.node.id), [part] if part else [])
        parts = await self.dead_letters.commit(epoch)
        self.epochs.keep(listed_as(self.node.id), parts)
        self.epochs.passed(self.node.id, epoch, self.metrics.to_json())
        self.epoch = epoch
        self.kept.clear()

    def removal(self, message: Removal) -> Removal:
        """What goes on of a removal."""
        return Removal.merged([message], self.kept)

    async def pass_end(self) -> None:
        """The same for what came after the last barrier."""
        await self.pass_barrier(self.epoch + 1)


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
                running.metrics.counts.records_in += data.num_rows + len(rejected)
                yield data, after, rejected
        return
    read = running.caller.read_on(lambda: source.read(position), lambda b: b.data.num_rows)
    async with aclosing(read) as batches:
        async for batch in batches:
            position = batch.cursor
            running.metrics.counts.records_in += batch.data.num_rows + len(batch.rejected)
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
    name, epochs = running.node.id, running.epochs
    cursor, done = epochs.position(name).cursor, epochs.position(name).done

    async def cut() -> None:
        epoch = epochs.cut(name, cursor)
        await running.pass_barrier(epoch)
        await outlet.send(Barrier(epoch))

    async with aclosing(slices):
        try:
            while not done and (read := await epochs.reads.next(slices)) is not None:
                data, cursor, bad = read
                for rejected in refused_by_source(bad):
                    await running.reject(rejected)
                epochs.read_rows(data.num_rows + len(bad))
                if data.num_rows:
                    running.metrics.sent(data)
                    await outlet.send(data)
                if running.changes is not None:
                    await running.changes.sent(running.metrics.counts, running.kept, outlet)
                if epochs.due(name):
                    await cut()
        except ReadStoppedError:
            await epochs.cut_to_the_last(name, cut)
            return
    epochs.exhausted(name)
    await running.pass_end()
    await outlet.end()


async def run_edges(
    name: str, manifests: Sequence[Manifest], outlets: Mapping[str, Outlet], epochs: Epochs
) -> None:
    """Send on what an earlier stage made, cutting barriers between its epochs."""
    position = epochs.position(name)
    cursor = position.cursor

    async def cut() -> None:
        barrier = Barrier(epochs.cut(name, cursor))
        for outlet in outlets.values():
            await outlet.send(barrier)

    if not position.done:
        after = (cursor or {"epoch": 0})["epoch"]
        async with aclosing(read_epochs(manifests, after)) as slices:
            async for output, data, epoch in slices:
                if not isinstance(data, Removal):
                    epochs.read_rows(data.num_rows)
                await outlets[output].send(data)
                if epoch is None:
                    continue
                cursor = {"epoch": epoch}
                if epochs.due(name):
                    await cut()
                # Where the epochs of the earlier stage meet, and only there, reading may stop.
                if epochs.reads.stopped:
                    await epochs.cut_to_the_last(name, cut)
                    return
    epochs.exhausted(name)
    for outlet in outlets.values():
        await outlet.end()


@dataclass(frozen=True)
class _Applied:
    """One unit, what was made of its parts, and what was refused."""

    unit: pa.RecordBatch
    made: Sequence[tuple[pa.RecordBatch, pa.RecordBatch]]
    rejected: Sequence[Rejected]


async def run_action(
    running: RunningNode, action: Action[Any], inlet: Inlet, outlet: Outlet
) -> None:
    """Apply an action to every batch, several at once, in order."""
    limit = running.concurrency
    # A kernel is bound by the cores: its results come nearly in order, and each may be large.
    window = limit + 1 if isinstance(action, KernelAction) else WINDOW * limit

    async def call(batch: pa.RecordBatch) -> pa.RecordBatch:
        apply = partial(running.caller.call, action.apply, batch, action.cost)
        return await running.suspects.call(apply, batch)

    async def apply(unit: pa.RecordBatch) -> _Applied:
        rejected: list[Rejected] = []
        made: list[tuple[pa.RecordBatch, pa.RecordBatch]] = []
        for piece in running.suspects.pieces(unit, rejected.append):
            made += await apply_isolating(call, piece, rejected.append)
        return _Applied(unit, made, rejected)

    async def hand_on(applied: _Applied) -> None:
        await _count(running, applied)
        for taken, made in applied.made:
            dropped = dropped_rows(taken, made)
            running.metrics.counts.dropped += dropped
            if made.num_rows:
                running.metrics.sent(made)
                await outlet.send(made)
                running.metrics.counts.records_kept += taken.num_rows - dropped

    async def pass_on(barrier: Barrier) -> None:
        await running.pass_barrier(barrier.epoch)
        await outlet.send(barrier)

    async def remove(removal: Removal) -> None:
        await outlet.send(running.removal(removal))

    async with (
        OrderedCalls(limit, window, running.metrics.counts) as calls,
        aclosing(inlet.messages()) as messages,
    ):
        async for message in messages:
            if isinstance(message, Barrier):
                await calls.in_order(partial(pass_on, message))
            elif isinstance(message, Removal):
                await calls.in_order(partial(remove, message))
            else:
                for unit in action.split(message):
                    await calls.submit(apply, unit, hand_on)
    await running.pass_end()
    await outlet.end()


async def _count(running: RunningNode, applied: _Applied) -> None:
    running.metrics.took(applied.unit)
    for rejected in applied.rejected:
        await running.reject(rejected)


async def run_router(
    running: RunningNode, router: Router[Any], inlet: Inlet, outlets: Mapping[str, Outlet]
) -> None:
    """Send every record down its route; a record of no route is dropped."""
    async with aclosing(inlet.messages()) as messages:
        async for message in messages:
            if isinstance(message, Barrier):
                await running.pass_barrier(message.epoch)
                for outlet in outlets.values():
                    await outlet.send(message)
                continue
            if isinstance(message, Removal):
                for outlet in outlets.values():
                    await outlet.send(running.removal(message))
                continue
            for unit in router.split(message):
                await _route(running, router, unit, outlets)
    await running.pass_end()
    for outlet in outlets.values():
        await outlet.end()


async def _route(
    running: RunningNode,
    router: Router[Any],
    unit: pa.RecordBatch,
    outlets: Mapping[str, Outlet],
) -> None:
    rejected: list[Rejected] = []

    async def call(batch: pa.RecordBatch) -> Mapping[str, pa.RecordBatch]:
        route = partial(running.caller.call, router.route, batch, router.cost)
        return await running.suspects.call(route, batch)

    running.metrics.took(unit)
    routed: list[tuple[pa.RecordBatch, Mapping[str, pa.RecordBatch]]] = []
    for piece in running.suspects.pieces(unit, rejected.append):
        routed += await apply_isolating(call, piece, rejected.append)
    for refused in rejected:
        await running.reject(refused)
    for taken, by_route in routed:
        sent = sum(batch.num_rows for batch in by_route.values())
        running.metrics.counts.dropped += taken.num_rows - sent
        for name, batch in by_route.items():
            if batch.num_rows:
                running.metrics.sent(batch, name)
                await outlets[name].send(batch)


async def run_sink(running: RunningNode, sink: Sink[Any], inlet: Inlet) -> None:
    """Write every batch, several at once; commit at every barrier and at the end."""
    limit = running.caller.slots(running.concurrency)
    counts = running.metrics.counts

    async def write(unit: pa.RecordBatch) -> None:
        rejected: list[Rejected] = []
        try:
            for piece in running.suspects.pieces(unit, rejected.append):
                await write_isolating(partial(_write, running, sink), piece, rejected.append)
        finally:
            limit.release()
        running.metrics.took(unit)
        counts.bytes_out += unit.nbytes
        for refused in rejected:
            await running.reject(refused)
            counts.bytes_out -= refused.records.nbytes

    async with aclosing(inlet.messages()) as messages:
        ended = False
        while not ended:
            ended = True
            epoch = running.epoch + 1
            removal: Removal | None = None
            async with anyio.create_task_group() as writes:
                async for message in messages:
                    if isinstance(message, Barrier):
                        epoch, ended = message.epoch, False
                        break
                    if isinstance(message, Removal):
                        removal = message
                        continue
                    for unit in sink.split(message):
                        await limit.acquire()
                        writes.start_soon(write, unit)
            if removal is not None and sink.capabilities.removes:
                await _remove(running, sink, running.removal(removal))
            await _commit(running, sink, epoch)
    await running.epochs.ended(running.node.id)


async def _write(running: RunningNode, sink: Sink[Any], batch: pa.RecordBatch) -> None:
    """One call of a sink, and what it says it wrote: all, unless it tells."""
    counts = running.metrics.counts
    try:
        write = partial(running.caller.call, sink.write, batch, sink.cost)
        told = await running.suspects.call(write, batch)
    except DataError as error:
        # Told which rows are refused, a sink has written the others.
        counts.records_out += batch.num_rows - len(error.rows) if error.rows else 0
        raise
    counts.records_out += batch.num_rows if told is None else told
    failpoint("sink.after_write")


async def _remove(running: RunningNode, sink: Sink[Any], removal: Removal) -> None:
    gone = removal.effective()
    if len(gone):
        failpoint("sink.before_remove")
        await running.caller.call(sink.remove, gone)
        failpoint("sink.after_remove")


async def _commit(running: RunningNode, sink: Sink[Any], epoch: int) -> None:
    if running.checkpoint_key is not None:
        await commit_with_checkpoint(running, sink, epoch, running.checkpoint_key)
        return
    failpoint("sink.before_commit")
    await running.caller.call(running.lease.guarded(sink.commit), epoch)
    failpoint("sink.after_commit")
    await running.pass_barrier(epoch)
    await running.epochs.committed(running.node.id, epoch)


async def run_part_writer(
    name: str, writer: PartWriter, removed: RemovalWriter, inlet: Inlet, epochs: Epochs
) -> None:
    """Write a materialized output, one part per epoch, and what it removes."""
    epoch = epochs.start.epoch

    async def commit() -> None:
        epochs.keep(removed.name, await removed.commit(epoch))
        await epochs.committed(name, epoch, await writer.commit(epoch))

    async with aclosing(inlet.messages()) as messages:
        async for message in messages:
            if isinstance(message, Barrier):
                epoch = message.epoch
                await commit()
            elif isinstance(message, Removal):
                await removed.write(message)
            else:
                await writer.write(message)
    epoch += 1
    await commit()
    await epochs.ended(name)
