"""The tasks at the ends of a stage: what an earlier one made, and what a later one will read."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing

from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.materialized import Manifest, PartWriter, read_epochs
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.removed import RemovalWriter


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
