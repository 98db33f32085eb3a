"""The task of a sink: write every batch, commit at every barrier."""

from contextlib import aclosing
from functools import partial
from typing import Any

import anyio
import pyarrow as pa

from nvisy_dagster.engine.channel import Inlet
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.nodes.running import RunningNode
from nvisy_dagster.engine.rejection import Rejected, write_isolating
from nvisy_dagster.engine.transaction import commit_with_checkpoint
from nvisy_dagster.sdk import DataError, Sink


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
        running.saw(unit, rejected)

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
                    with running.at_work() as work:
                        for unit in sink.split(message):
                            work.calls += 1
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
        await running.caller.call(running.lease.guarded(sink.remove), gone, what="a removal")
        failpoint("sink.after_remove")


async def _commit(running: RunningNode, sink: Sink[Any], epoch: int) -> None:
    if running.checkpoint_key is not None:
        await commit_with_checkpoint(running, sink, epoch, running.checkpoint_key)
        return
    failpoint("sink.before_commit")
    await running.caller.call(running.lease.guarded(sink.commit), epoch, what="a commit")
    failpoint("sink.after_commit")
    await running.pass_barrier(epoch)
    await running.epochs.committed(running.node.id, epoch)
