"""Epochs: when a barrier is asked for, and when its checkpoint may be written.

One epoch is under way at a time. A source answers a request at its next cut; the barrier flows with
the data; every committer (a sink or the writer of a materialized output) commits it; then the
checkpoint is written. So the checkpoint never runs ahead of what is durable and never goes back,
and a crash replays at most one epoch.

A source, node or committer that ends before it sees a barrier stands for all later epochs with what
it had at its end; one that ends after it belongs to the next epoch with what came in between.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
from anyio import to_thread

from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore, Part, SourcePosition
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
    """

    def __init__(
        self,
        store: CheckpointStore,
        start: Checkpoint,
        interval: Interval | None,
        *,
        sources: Iterable[str],
        committers: Iterable[str],
    ) -> None:
        self._store = store
        self._interval = interval
        self.start = start
        self.written = start
        self._requested = start.epoch
        self._rows_since = 0
        self._cuts: dict[str, tuple[int, SourcePosition]] = {
            source: (start.epoch, start.sources.get(source, SourcePosition())) for source in sources
        }
        self._exhausted: set[str] = set()
        self._committed = dict.fromkeys(committers, start.epoch)
        self._ended: set[str] = set()
        self._parts = {name: list(parts) for name, parts in start.parts.items()}
        self._counts: defaultdict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        for node, counts in start.counts.items():
            self._counts[node][start.epoch] = counts
        self._writing = anyio.Lock()

    async def tick(self) -> None:
        """Ask for an epoch every interval, for ever."""
        while self._interval is not None:
            await anyio.sleep(self._interval.interval_seconds)
            self._request()

    def _request(self) -> None:
        if self._requested == self.written.epoch:
            self._requested += 1
            self._rows_since = 0

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
        self._cuts[source] = (self._requested, SourcePosition(cursor=dict(cursor or {})))
        return self._requested

    def exhausted(self, source: str) -> None:
        """The source has nothing more to read."""
        self._exhausted.add(source)

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

    async def complete(self) -> None:
        """Everything was read and committed: write the last checkpoint."""
        last = max([self._requested, *self._committed.values()])
        await self._write(last, complete=True)

    async def _write(self, epoch: int, *, complete: bool = False) -> None:
        upto = sys.maxsize if complete else epoch
        checkpoint = Checkpoint(
            basis=self.start.basis,
            generation=self.start.generation,
            epoch=epoch,
            complete=complete,
            sources={
                source: position if cut == upto else _DONE
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
        await to_thread.run_sync(self._store.write, checkpoint)
        self.written = checkpoint
        for by_epoch in self._counts.values():
            for old in sorted(by_epoch)[:-2]:
                del by_epoch[old]
