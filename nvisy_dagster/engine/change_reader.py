"""Reading the changes of a source since its bookmark, and writing the next one."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.bookmark import (
    DAMAGED,
    Begun,
    BookmarkFiles,
    TouchedLog,
    batches_of,
    journal_name,
    own_folder,
)
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.channel import Outlet
from nvisy_dagster.engine.checkpoint import Checkpoint, Part
from nvisy_dagster.engine.documents import VersionedDocument
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.materialized import PartWriter
from nvisy_dagster.engine.message import Removal
from nvisy_dagster.engine.metrics import Counts
from nvisy_dagster.engine.storage import fetch
from nvisy_dagster.sdk import Change, Cursor, RejectedRecord, Source

Slice = tuple[pa.RecordBatch, Mapping[str, Any], Sequence[RejectedRecord]]

_NOTHING = pa.RecordBatch.from_pylist([], schema=pa.schema([]))


@dataclass(frozen=True)
class Roots:
    """Ids of the root records that a slice tells of, and of those that it says are gone."""

    told: Sequence[pa.Array] = ()
    gone: Sequence[pa.Array] = ()


class ChangeReader:
    """Reads the changes of one source, and writes its next bookmark.

    Args:
        node: The source's node.
        folder: The stage's state folder.
        progress: The attempt chain.
        basis: Hash of all that the source's records become, and where.
        start: The stage's checkpoint.
        lease: Under which the stage runs.
    """

    def __init__(  # noqa: PLR0913 - what a running stage knows
        self,
        node: Node,
        folder: Path,
        progress: str,
        basis: str,
        start: Checkpoint,
        *,
        lease: Lease | None,
    ) -> None:
        self._node = node
        self._files = BookmarkFiles(folder.parent.parent, node.id)
        self._own = own_folder(folder, node.id)
        parts = start.parts.get(journal_name(node.id), [])
        self._journal = PartWriter(self._own, start.epoch, lease)
        self._pending: list[pa.RecordBatch] = []
        self._change: Change[Any] | None = None
        known, fresh = self._files.touched_files(), self._files.fresh()
        may_empty = node.on_removed != "remove"
        self._bookmark = replace(self._files.load(basis), may_empty=may_empty)
        self._so_far = [b for part in parts for b in batches_of(fetch(self._own / part.file))]
        self._touched = TouchedLog(self._files.touched, progress)
        begun = VersionedDocument(self._own / "begun.json", Begun, DAMAGED, lease)
        if begun.needs_claim:
            begun.read()
        failpoint("bookmark.before_begun")
        begun.write(Begun(basis=basis, touched=known, fresh=fresh))

    async def slices(
        self, caller: Caller, source: Source[Any, Any], position: Cursor | None
    ) -> AsyncGenerator[Slice, None]:
        """Batches of what changed; after a transient error it reads on from its last cursor."""

        def begin() -> AsyncGenerator[Change[Any], None]:
            so_far = [*self._so_far, *self._pending]
            return source.read_changes(position, replace(self._bookmark, so_far=so_far))

        async with aclosing(caller.read_on(begin, _rows)) as changes:
            async for change in changes:
                if change.touched is not None and change.touched.num_rows:
                    await self._touched.add(change.touched)
                    failpoint("bookmark.touched")
                position, self._change = change.cursor, change
                data = _NOTHING if change.batch is None else change.batch.data
                rejected = () if change.batch is None else change.batch.rejected
                yield data, change.cursor.model_dump(mode="json"), rejected

    def roots(self) -> "Roots":
        """The root records of the slice that was read last."""
        change = self._change
        if change is None:
            return Roots()
        batch = None if change.batch is None else change.batch.data
        return Roots(
            () if batch is None or not batch.num_rows else (batch.column("_root_id"),),
            () if change.gone is None else (change.gone,),
        )

    async def sent(self, counts: Counts, kept: Sequence[pa.Array], outlet: Outlet) -> None:
        """The last slice was sent on: what belongs to it follows it.

        Args:
            counts: Counts of the source.
            kept: Ids of records of the slice that could not be read: what was made of them stays.
            outlet: Where the slice was sent.
        """
        roots, change, self._change = self.roots(), self._change, None
        if change is None:
            return
        found = change.counts
        counts.found_new += found.new
        counts.found_changed += found.changed
        counts.found_removed += found.removed
        counts.found_unchanged += found.unchanged
        if change.bookmark is not None and change.bookmark.num_rows:
            self._pending.append(change.bookmark)
            await self._journal.write(change.bookmark)
        ids = [*roots.gone, *roots.told]
        if ids and self._node.on_removed != "ignore":
            await outlet.send(Removal.of(ids, kept))

    async def commit(self, epoch: int) -> Part | None:
        """Make the bookmark's rows of this epoch durable."""
        part = await self._journal.commit(epoch)
        self._so_far += self._pending
        self._pending = []
        return part

    async def aclose(self) -> None:
        """Close the open part without publishing it."""
        await self._journal.aclose()


def _rows(change: Change[Any]) -> int:
    return 0 if change.batch is None else change.batch.data.num_rows
