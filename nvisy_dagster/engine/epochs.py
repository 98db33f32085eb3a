"""Epochs: when a barrier is asked for, and when its checkpoint may be written.

One epoch is under way at a time. A source answers a request at its next cut; the barrier flows with
the data; every committer (a sink or the writer of a materialized output) commits it; then the
checkpoint is written. So the checkpoint never runs ahead of what is durable and never goes back,
and a crash replays at most one epoch.

A source, node or committer that ends before it sees a barrier stands for all later epochs with what
it had at its end; one that ends after it belongs to the next epoch with what came in between.

A stage that is stopped has a final epoch. Its sources break off their reads and cut what barriers
there are still to come, one or two, where they stand; with the checkpoint of the final epoch the
stage is drained.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import anyio
from anyio import to_thread

from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore, Part, SourcePosition
from nvisy_dagster.engine.drain import Reads, ReadStoppedError
from nvisy_dagster.graph.policies import Checkpoint as Interval

_DONE = SourcePosition(done=True)


class Epochs:
    """The progress of one stage.

    Args:
        store: Where the checkpoint is kept.
        start: The checkpoint to go on from.
        interval: How often a barrier is cut; `None` for never, so that the stage is one epoch.
        sources: Ids of what the stage reads.
        committers: Names of what commits.
        audit: Refuses a checkpoint whose counts do not add up, before it is written.
    """

    def __init__(  # noqa: PLR0913 - what a stage is made of, by keyword
        self,
        store: CheckpointStore,
        start: Checkpoint,
        interval: Interval | None,
        *,
        sources: Iterable[str],
        committers: Iterable[str],
        audit: Callable[[Checkpoint], None] | None = None,
    ) -> None:
        self._store = store
        self._interval = interval
        self._audit = audit
        self.start = start
        self.written = start
        self._requested = start.epoch
        self._rows_since = 0
        self._cuts: dict[str, tuple[int, SourcePosition]] = {
            source: (start.epoch, start.sources.get(source, SourcePosition())) for source in sources
        }
        self._exhausted: set[str] = set()
        self._ends = {name: at for name, at in start.sources.items() if at.done}
        """Where sources ended, of which not everything was wanted."""
        self._committed = dict.fromkeys(committers, start.epoch)
        self._ended: set[str] = set()
        self._parts = {name: list(parts) for name, parts in start.parts.items()}
        self._counts: defaultdict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        for node, counts in start.counts.items():
            self._counts[node][start.epoch] = counts
        self._writing = anyio.Lock()
        self._due = anyio.Event()
        self._awaited = False
        """Whether a source waits for the next epoch."""
        self._final: int | None = None
        """The last epoch that there will be, once the stage is to stop."""
        self.reads = Reads()
        self.drained = anyio.Event()
        """Set when, after `stop`, the checkpoint of the final epoch is written."""

    async def tick(self) -> None:
        """Ask for an epoch every interval, for ever."""
        while self._interval is not None:
            await anyio.sleep(self._interval.interval_seconds)
            self._request()

    @property
    def requested(self) -> int:
        """The last epoch that was asked for."""
        return self._requested

    @property
    def _under_way(self) -> bool:
        """Whether an epoch is asked for whose checkpoint is not written."""
        return self._requested > self.written.epoch

    def _request(self) -> None:
        """Ask for the next epoch, unless one is under way or there will be none."""
        if self._under_way or self._requested == self._final:
            return
        self._requested += 1
        self._rows_since = 0
        self._awaited = False
        due, self._due = self._due, anyio.Event()
        due.set()

    def stop(self) -> None:
        """Have every source stop reading, and cut a final barrier where it stands."""
        if self._final is not None:
            return
        self._final = self._requested
        if not self._under_way or self._is_begun():
            # The sources whose barrier is under way may have read on behind it.
            self._final += 1
        self._request()
        self.reads.stop()

    def _is_begun(self) -> bool:
        """Whether a source has cut the barrier that was asked for last."""
        return any(cut == self._requested for cut, _ in self._cuts.values())

    async def cut_final(self, source: str, cut: Callable[[], Awaitable[None]]) -> None:
        """After `stop`: have the source cut where it stands, up to the final barrier."""
        while self._final is not None and self._cuts[source][0] < self._final:
            await self._cut_when_due(source, cut)

    async def cut_here(self, source: str, cut: Callable[[], Awaitable[None]]) -> None:
        """Have the source cut before it sends on, waiting until it may.

        Where no barriers are cut at all, none is.
        """
        if self._interval is None:
            return
        self._awaited = True
        self._request()
        await self._cut_when_due(source, cut)

    async def make_room(self, source: str, rows: int, cut: Callable[[], Awaitable[None]]) -> None:
        """Have the source cut before it sends so many records, if the epoch may not hold them.

        Raises:
            ReadStoppedError: The stage is to stop: what is not sent yet stays unsent.
        """
        limit = self._interval.interval_rows if self._interval else None
        if self.due(source):
            await cut()
        elif limit is not None and self._rows_since and self._rows_since + rows > limit:
            await self.cut_here(source, cut)
        if self.reads.stopped:
            raise ReadStoppedError

    async def wait_until_due(self, source: str) -> None:
        """Return when the source should cut a barrier."""
        while not self.due(source):
            await self._due.wait()

    async def _cut_when_due(self, source: str, cut: Callable[[], Awaitable[None]]) -> None:
        # A barrier that it has cut already may still be under way.
        await self.wait_until_due(source)
        await cut()

    def read_rows(self, rows: int) -> None:
        """A source has read this many records."""
        self._rows_since += rows
        limit = self._interval.interval_rows if self._interval else None
        if limit is not None and self._rows_since >= limit:
            self._request()

    def position(self, source: str) -> SourcePosition:
        """Where the source goes on from."""
        return self.start.sources.get(source, SourcePosition())

    def due(self, source: str) -> bool:
        """Whether the source should cut a barrier now."""
        return self._cuts[source][0] < self._requested

    def cut(self, source: str, cursor: Mapping[str, Any] | None) -> int:
        """The source cuts a barrier at this cursor; returns its epoch."""
        self._cuts[source] = (self._requested, SourcePosition(cursor=_plain(cursor)))
        return self._requested

    def exhausted(self, source: str, left_at: Mapping[str, Any] | None = None) -> None:
        """The source has nothing more to read.

        Args:
            source: The source.
            left_at: Where it stands, if nobody wants the rest.
        """
        self._exhausted.add(source)
        if left_at is not None:
            self._ends[source] = SourcePosition(cursor=_plain(left_at), done=True)

    def cursors(self) -> str:
        """Where the sources stood at the last checkpoint, as JSON."""
        positions = self.written.sources.items()
        return json.dumps({name: position.cursor for name, position in positions})

    def keep(self, name: str, parts: Iterable[Part]) -> None:
        """Have the checkpoints from now on list these files under a name."""
        for part in parts:
            self._parts.setdefault(name, []).append(part)

    def passed(self, node: str, epoch: int, counts: Mapping[str, float]) -> None:
        """A node passed this epoch's barrier on, or ended in this epoch, with these counts."""
        self._counts[node][epoch] = dict(counts)

    async def committed(self, committer: str, epoch: int, part: Part | None = None) -> None:
        """A committer made everything up to this epoch durable."""
        if part is not None:
            self._parts.setdefault(committer, []).append(part)
        self._committed[committer] = epoch
        await self._write_if_whole()

    async def ended(self, committer: str) -> None:
        """A committer has committed everything that it will ever get."""
        self._ended.add(committer)
        await self._write_if_whole()

    async def _write_if_whole(self) -> None:
        async with self._writing:
            epoch = self._requested
            if epoch > self.written.epoch and self._whole(epoch):
                await self._write(epoch)

    def _whole(self, epoch: int) -> bool:
        sources = all(
            cut == epoch or source in self._exhausted for source, (cut, _) in self._cuts.items()
        )
        committers = all(
            committed >= epoch or name in self._ended for name, committed in self._committed.items()
        )
        # When all have ended, `complete` writes the last checkpoint.
        return sources and committers and len(self._ended) < len(self._committed)

    async def complete(self, *, finished: bool = True) -> None:
        """Everything was read and committed: write the last checkpoint.

        Args:
            finished: Whether the run may end with that; otherwise it still has to.
        """
        last = max([self._requested, *self._committed.values()])
        await self._write(last, complete=finished, ended=True)

    def checkpoint(self, epoch: int, *, complete: bool = False, ended: bool = False) -> Checkpoint:
        """The checkpoint of an epoch that every node has passed.

        Args:
            epoch: The epoch.
            complete: Whether the stage is done for good.
            ended: Whether every node is at its end.

        Raises:
            NvisyError: Its counts do not add up.
        """
        upto = sys.maxsize if ended else epoch
        checkpoint = Checkpoint(
            basis=self.start.basis,
            generation=self.start.generation,
            epoch=epoch,
            complete=complete,
            sources={
                source: position if cut == upto else self._ends.get(source, _DONE)
                for source, (cut, position) in self._cuts.items()
            },
            parts={
                name: [part for part in parts if part.epoch <= upto]
                for name, parts in self._parts.items()
            },
            counts={
                node: by_epoch[max(e for e in by_epoch if e <= upto)]
                for node, by_epoch in self._counts.items()
                if min(by_epoch) <= upto
            },
        )
        if self._audit is not None:
            self._audit(checkpoint)
        return checkpoint

    async def _write(self, epoch: int, *, complete: bool = False, ended: bool = False) -> None:
        checkpoint = self.checkpoint(epoch, complete=complete, ended=ended)
        await to_thread.run_sync(self._store.write, checkpoint)
        self.written = checkpoint
        self._forget_counts()
        if self._awaited or self._final is not None:
            self._request()
        # Where all is read, the end is near: the stage is not stopped short of it.
        if epoch == self._final and len(self._exhausted) < len(self._cuts):
            self.drained.set()

    def _forget_counts(self) -> None:
        """Keep those of the last two epochs of each node: later checkpoints need no others."""
        for by_epoch in self._counts.values():
            for old in sorted(by_epoch)[:-2]:
                del by_epoch[old]


def _plain(cursor: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if cursor is None else dict(cursor)
