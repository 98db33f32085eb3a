"""The tasks at the ends of a stage: what an earlier one made, and what a later one will read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.engine.channel import Inlet, Outlet
from nvisy_dagster.engine.drain import ReadStoppedError
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.materialized import (
    EpochParts,
    Manifest,
    PartWriter,
    parts_by_epoch,
    read_column,
    read_part,
    read_upto,
)
from nvisy_dagster.engine.message import Barrier, Removal
from nvisy_dagster.engine.pace import Pace
from nvisy_dagster.engine.removed import RemovalWriter
from nvisy_dagster.engine.versions import Versions
from nvisy_dagster.sdk.identity import array_to_ids

Ends = npt.NDArray[np.int64]

MOST_ROWS = 1 << 22
"""Records of the largest epoch whose roots are looked through, at some 50 bytes each."""


async def run_edges(
    name: str,
    manifests: Sequence[Manifest],
    outlets: Mapping[str, Outlet],
    epochs: Epochs,
    pace: Pace,
) -> None:
    """Send on what an earlier stage made, cutting barriers where its source records end."""
    edges = _Edges(name, outlets, epochs, pace)
    if not epochs.position(name).done and not await edges.read(manifests):
        return
    epochs.exhausted(name, edges.left_at)
    for outlet in outlets.values():
        await outlet.end()


class _UnwantedError(Exception):
    """Nobody wants the rest."""


class _Edges:
    """The outputs of one earlier stage, on their way to the nodes that read them."""

    def __init__(
        self, name: str, outlets: Mapping[str, Outlet], epochs: Epochs, pace: Pace
    ) -> None:
        self._name = name
        self._outlets = outlets
        self._epochs = epochs
        self._pace = pace
        self._epoch, further = read_upto(epochs.position(name).cursor)
        """The epoch of the earlier stage of which all was sent."""
        self._rows = sum(further.values())
        """How many records of the next one were sent, too, where that has one output."""
        self._output = next(iter(further), "")
        self._sent = dict(further)
        """Records of that epoch that were sent, by output, wherever barriers may be cut."""
        self._versions = Versions()
        self.left_at: dict[str, Any] | None = None
        """Where it stands, if nobody wants the rest."""

    async def read(self, manifests: Sequence[Manifest]) -> bool:
        """Send all of it on; whether it came to the end, and was not stopped."""
        try:
            for parts in parts_by_epoch(manifests, self._epoch):
                await self._epochs.make_room(self._name, 1, self._cut)
                self._insist()
                await self._remove(parts)
                await self._send_records(parts)
                self._epoch, self._rows = parts.epoch, 0
                self._sent.clear()
                await self._cut_if_due()
        except _UnwantedError:
            self.left_at = {"epoch": self._epoch, "rows": self._sent}
        except ReadStoppedError:
            await self._epochs.cut_final(self._name, self._cut)
            return False
        return True

    def _insist(self) -> None:
        if self._epochs.reads.ended(self._name):
            raise _UnwantedError

    async def _send_records(self, parts: EpochParts) -> None:
        """Send the records of an epoch.

        Raises:
            ReadStoppedError: The stage is to stop, and here it may.
            _UnwantedError: Nobody wants more of them.
        """
        ends = await self._ends(parts)
        for output, path in parts.records:
            start, sent = 0, self._rows
            async with aclosing(read_part(path)) as batches:
                async for batch in batches:
                    skip = min(max(0, sent - start), batch.num_rows)
                    for piece in self._pieces(batch.slice(skip), start + skip, ends):
                        await self._send(output, piece, ends)
                    start += batch.num_rows

    async def _ends(self, parts: EpochParts) -> Ends | None:
        """Where within an epoch barriers may be cut, besides its end; `None` for nowhere.

        Between the records of two source records, if it has one output, removes nothing and is not
        too large.
        """
        if parts.removed or len(parts.records) != 1 or parts.rows > MOST_ROWS:
            return None
        if self._pace.most_rows is None and not self._rows:
            return None
        return await to_thread.run_sync(_root_ends, parts.records[0][1])

    def _pieces(
        self, batch: pa.RecordBatch, start: int, ends: Ends | None
    ) -> Iterator[pa.RecordBatch]:
        """A batch in pieces of what may be sent at once, which end where barriers may be cut.

        Args:
            batch: What is to be sent.
            start: The number of its first record within the epoch.
            ends: Where barriers may be cut.
        """
        sent = 0
        while sent < batch.num_rows:
            most = self._pace.most_rows
            rows = batch.num_rows - sent
            if ends is not None and most is not None:
                rows = min(rows, _next_end(ends, start + sent, most) - start - sent)
            yield batch.slice(sent, rows)
            sent += rows

    async def _send(self, output: str, data: pa.RecordBatch, ends: Ends | None) -> None:
        """Send some records, and cut before or after where that may be."""
        epochs, rows = self._epochs, data.num_rows
        if ends is not None and _is_end(ends, self._rows):
            await epochs.make_room(self._name, rows, self._cut)
        self._insist()
        epochs.read_rows(rows)
        await self._outlets[output].send(data)
        self._sent[output] = self._sent.get(output, 0) + rows
        self._pace.sent(rows, requested=epochs.requested, written=epochs.written.epoch)
        if ends is not None:
            self._output = output
            self._rows += rows
            if _is_end(ends, self._rows):
                await self._cut_if_due()

    async def _cut_if_due(self) -> None:
        """At a place where a barrier may be cut, and where the stage may stop.

        Raises:
            ReadStoppedError: It is to stop.
        """
        if self._epochs.due(self._name):
            await self._cut()
        if self._epochs.reads.stopped:
            raise ReadStoppedError

    async def _remove(self, parts: EpochParts) -> None:
        """Before the first records of an epoch: what it removes."""
        removals: list[tuple[str, Removal]] = []
        for output, path in parts.removed:
            async with aclosing(read_part(path)) as batches:
                removals += [(output, Removal.from_batch(batch)) async for batch in batches]
        if not removals:
            return
        roots = [removal.root_ids for _, removal in removals]
        if self._versions.meet(roots):
            await self._epochs.cut_here(self._name, self._cut)
        self._versions.add(roots)
        for output, removal in removals:
            await self._outlets[output].send(removal)

    async def _cut(self) -> None:
        self._versions.clear()
        further = {self._output: self._rows} if self._rows else {}
        cursor = {"epoch": self._epoch, "rows": further}
        barrier = Barrier(self._epochs.cut(self._name, cursor))
        for outlet in self._outlets.values():
            await outlet.send(barrier)


def _root_ends(path: Path) -> Ends:
    """How many records of a part lie before each place that no source record lies across."""
    roots = read_column(path, "_root_id").combine_chunks()
    # Half of each id: where two are taken for one, there is an end less.
    words = array_to_ids(roots.cast(pa.binary(16)))[:, 0]
    _, inverse = np.unique(words, return_inverse=True)
    place = np.arange(len(inverse))
    last = np.zeros(len(inverse), np.int64)
    last[inverse] = place  # of several assignments the last one holds
    return np.flatnonzero(np.maximum.accumulate(last[inverse]) == place) + 1


def _next_end(ends: Ends, start: int, most: int) -> int:
    """The last place within `most` records behind `start`, or the first one behind that."""
    index = int(np.searchsorted(ends, start + most, side="right")) - 1
    if index < 0 or ends[index] <= start:
        index += 1
    return int(ends[index])


def _is_end(ends: Ends, rows: int) -> bool:
    index = int(np.searchsorted(ends, rows))
    return index < len(ends) and int(ends[index]) == rows


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
