"""The task of each kind of node: read the inlet, call the component, write the outlet."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pyarrow as pa
from pydantic import ValidationError

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.calls import Caller, OrderedCalls
from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.dead_letter import DeadLetters
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import BEGIN_ANEW, StorageError
from nvisy_dagster.engine.materialized import Manifest, PartWriter, read_epochs
from nvisy_dagster.engine.message import Barrier
from nvisy_dagster.engine.metrics import NodeMetrics, dropped_rows
from nvisy_dagster.engine.rejection import (
    Rejected,
    apply_isolating,
    failed_records,
    write_isolating,
)
from nvisy_dagster.sdk import Action, Cursor, KernelAction, Router, Sink, Source, TransientError

WINDOW = 4
"""Results waiting for an earlier one, per call in flight: with a tenth of the calls slow, a window
of four keeps 0.82 of the ideal throughput where one keeps 0.28."""

Slice = tuple[pa.RecordBatch, Mapping[str, Any]]
"""A batch that was read and the cursor after it."""


@dataclass
class RunningNode:
    """What every task of a node works with."""

    node: Node
    metrics: NodeMetrics
    caller: Caller
    epochs: Epochs
    dead_letters: DeadLetters
    epoch: int
    """Epoch of the last barrier that it passed on."""

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
        match self.node.policies.on_error:
            case "fail":
                raise failed_records(self.node.id, rejected)
            case "drop":
                counts.dropped += rejected.records.num_rows
            case "dead_letter":
                await self.dead_letters.add(rejected)
                counts.dead += rejected.records.num_rows

    async def pass_barrier(self, epoch: int) -> None:
        """What is due before a barrier goes on: dead letters durable, counts cut."""
        await self.dead_letters.commit(epoch)
        self.epochs.passed(self.node.id, epoch, self.metrics.counts.to_json())
        self.epoch = epoch

    async def pass_end(self) -> None:
        """The same for what came after the last barrier."""
        await self.pass_barrier(self.epoch + 1)


async def read_source(
    running: RunningNode, source: Source[Any, Any], cursor: Mapping[str, Any] | None
) -> AsyncGenerator[Slice, None]:
    """Batches of a source; after a transient error it reads on from its last cursor."""
    position = None if cursor is None else _position(source, cursor)
    attempt = 0
    while True:
        try:
            async with aclosing(source.read(position)) as batches:
                async for batch in batches:
                    position, attempt = batch.cursor, 0
                    yield batch.data, batch.cursor.model_dump(mode="json")
        except TransientError as error:
            attempt += 1
            await running.caller.pause(error, attempt)
        else:
            return


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
    async with aclosing(slices):
        async for data, cursor in slices:
            running.metrics.sent(data)
            epochs.read_rows(data.num_rows)
            await outlet.send(data)
            if epochs.due(name):
                epoch = epochs.cut(name, cursor)
                await running.pass_barrier(epoch)
                await outlet.send(Barrier(epoch))
    epochs.exhausted(name)
    await running.pass_end()
    await outlet.end()


async def run_edges(
    name: str, manifests: Sequence[Manifest], outlets: Mapping[str, Outlet], epochs: Epochs
) -> None:
    """Send on what an earlier stage made, cutting barriers between its epochs."""
    position = epochs.position(name)
    if not position.done:
        after = (position.cursor or {"epoch": 0})["epoch"]
        async with aclosing(read_epochs(manifests, after)) as slices:
            async for output, data, epoch in slices:
                epochs.read_rows(data.num_rows)
                await outlets[output].send(data)
                if epoch is not None and epochs.due(name):
                    barrier = Barrier(epochs.cut(name, {"epoch": epoch}))
                    for outlet in outlets.values():
                        await outlet.send(barrier)
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
        return await running.caller.call(action.apply, batch)

    async def apply(unit: pa.RecordBatch) -> _Applied:
        rejected: list[Rejected] = []
        made = await apply_isolating(call, unit, rejected.append)
        return _Applied(unit, made, rejected)

    async def hand_on(applied: _Applied) -> None:
        await _count(running, applied)
        for _, made in applied.made:
            if made.num_rows:
                running.metrics.sent(made)
                await outlet.send(made)

    async def pass_on(barrier: Barrier) -> None:
        await running.pass_barrier(barrier.epoch)
        await outlet.send(barrier)

    async with OrderedCalls(limit, window) as calls, aclosing(inlet.messages()) as messages:
        async for message in messages:
            if isinstance(message, Barrier):
                await calls.in_order(partial(pass_on, message))
            else:
                for unit in action.split(message):
                    await calls.submit(apply, unit, hand_on)
    await running.pass_end()
    await outlet.end()


async def _count(running: RunningNode, applied: _Applied) -> None:
    running.metrics.took(applied.unit)
    for rejected in applied.rejected:
        await running.reject(rejected)
    for taken, made in applied.made:
        running.metrics.counts.dropped += dropped_rows(taken, made)


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
        return await running.caller.call(router.route, batch)

    running.metrics.took(unit)
    routed = await apply_isolating(call, unit, rejected.append)
    for refused in rejected:
        await running.reject(refused)
    sent = sum(refused.records.num_rows for refused in rejected)
    for _, by_route in routed:
        for name, batch in by_route.items():
            sent += batch.num_rows
            if batch.num_rows:
                running.metrics.sent(batch)
                await outlets[name].send(batch)
    running.metrics.counts.dropped += unit.num_rows - sent


async def run_sink(running: RunningNode, sink: Sink[Any], inlet: Inlet) -> None:
    """Write every batch, several at once; commit at every barrier and at the end."""
    limit = anyio.Semaphore(running.concurrency)

    async def write(unit: pa.RecordBatch) -> None:
        rejected: list[Rejected] = []
        try:
            await write_isolating(call, unit, rejected.append)
        finally:
            limit.release()
        running.metrics.took(unit)
        counts = running.metrics.counts
        counts.records_out += unit.num_rows
        counts.bytes_out += unit.nbytes
        for refused in rejected:
            await running.reject(refused)
            counts.records_out -= refused.records.num_rows
            counts.bytes_out -= refused.records.nbytes

    async def call(batch: pa.RecordBatch) -> None:
        await running.caller.call(sink.write, batch)
        failpoint("sink.after_write")

    async with aclosing(inlet.messages()) as messages:
        ended = False
        while not ended:
            ended = True
            epoch = running.epoch + 1
            async with anyio.create_task_group() as writes:
                async for message in messages:
                    if isinstance(message, Barrier):
                        epoch, ended = message.epoch, False
                        break
                    for unit in sink.split(message):
                        await limit.acquire()
                        writes.start_soon(write, unit)
            await _commit(running, sink, epoch)
    await running.epochs.ended(running.node.id)


async def _commit(running: RunningNode, sink: Sink[Any], epoch: int) -> None:
    failpoint("sink.before_commit")
    await running.caller.call(sink.commit, epoch)
    failpoint("sink.after_commit")
    await running.pass_barrier(epoch)
    await running.epochs.committed(running.node.id, epoch)


async def run_part_writer(name: str, writer: PartWriter, inlet: Inlet, epochs: Epochs) -> None:
    """Write a materialized output, one part per epoch."""
    epoch = epochs.start.epoch
    async with aclosing(inlet.messages()) as messages:
        async for message in messages:
            if isinstance(message, Barrier):
                epoch = message.epoch
                await epochs.committed(name, epoch, await writer.commit(epoch))
            else:
                await writer.write(message)
    await epochs.committed(name, epoch + 1, await writer.commit(epoch + 1))
    await epochs.ended(name)
