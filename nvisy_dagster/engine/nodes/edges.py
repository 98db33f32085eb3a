"""The tasks at the ends of a stage: what an earlier one made, and what a later one will read."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing

from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.materialized import Manifest, PartWriter, read_epochs
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.removed import RemovalWriter
from nvisy_dagster.engine.versions import Versions


async def run_edges(
    name: str, manifests: Sequence[Manifest], outlets: Mapping[str, Outlet], epochs: Epochs
) -> None:
    """Send on what an earlier stage made, cutting barriers between its epochs."""
    edges = _Edges(name, outlets, epochs)
    if not epochs.position(name).done and not await edges.read(manifests):
        return
    epochs.exhausted(name)
    for outlet in outlets.values():
        await outlet.end()


class _Edges:
    """The outputs of one earlier stage, on their way to the nodes that read them."""

    def __init__(self, name: str, outlets: Mapping[str, Outlet], epochs: Epochs) -> None:
        self._name = name
        self._outlets = outlets
        self._epochs = epochs
        self._cursor = epochs.position(name).cursor
        self._versions = Versions()
        self._removals: list[tuple[str, Removal]] = []
        """Of the epoch that is read, until all of them are known."""

    async def read(self, manifests: Sequence[Manifest]) -> bool:
        """Send all of it on; whether it came to the end, and was not stopped."""
        after = (self._cursor or {"epoch": 0})["epoch"]
        async with aclosing(read_epochs(manifests, after)) as slices:
            async for output, data, epoch in slices:
                if isinstance(data, Removal):
                    self._removals.append((output, data))
                else:
                    await self._remove()
                    self._epochs.read_rows(data.num_rows)
                    await self._outlets[output].send(data)
                # Where the epochs of the earlier stage meet, and only there, a barrier may be cut,
                # and reading may stop.
                if epoch is not None and await self._end_epoch(epoch):
                    return False
        return True

    async def _end_epoch(self, epoch: int) -> bool:
        await self._remove()
        self._cursor = {"epoch": epoch}
        if self._epochs.due(self._name):
            await self._cut()
        if self._epochs.reads.stopped:
            await self._epochs.cut_final(self._name, self._cut)
        return self._epochs.reads.stopped

    async def _remove(self) -> None:
        """Before the first records of an epoch: what it removes."""
        if not self._removals:
            return
        roots = [removal.root_ids for _, removal in self._removals]
        if self._versions.meet(roots):
            await self._epochs.cut_here(self._name, self._cut)
        self._versions.add(roots)
        for output, removal in self._removals:
            await self._outlets[output].send(removal)
        self._removals.clear()

    async def _cut(self) -> None:
        self._versions.clear()
        barrier = Barrier(self._epochs.cut(self._name, self._cursor))
        for outlet in self._outlets.values():
            await outlet.send(barrier)


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
