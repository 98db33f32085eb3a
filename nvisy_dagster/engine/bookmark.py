"""Bookmarks: what a source remembers between successful runs, and when it becomes current.

<graph>/bookmarks/<source>/current.json            names the file of the last successful run
<graph>/bookmarks/<source>/*.parquet               that file
<graph>/bookmarks/<source>/touched/*.arrow         what unfinished runs may have sent
<graph>/bookmarks/fresh.json                       everything is to be read again
<graph>/<progress>/<stage>/bookmarks/<source>/     the next bookmark, a part per epoch

The parts of the next bookmark are listed in the stage's checkpoint like those of a materialized
output, so they never say more than what was committed. When every stage is complete they are put
together, and one write makes them current, before the attempt chain is marked complete: a crash in
between promotes them again.
"""

import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from anyio import to_thread
from pydantic import BaseModel, ConfigDict

from nvisy_dagster.compiler import Node, Plan, Stage
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.channel import Outlet
from nvisy_dagster.engine.checkpoint import Checkpoint, Part
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.materialized import PartWriter
from nvisy_dagster.engine.message import Removal
from nvisy_dagster.engine.metrics import Counts
from nvisy_dagster.engine.storage import (
    fetch,
    is_file,
    names,
    publish,
    read_model,
    remove_file,
    safe_name,
    sync_folder,
    told,
    write_json,
)
from nvisy_dagster.sdk import Bookmark, Change, Cursor, RejectedRecord, Source
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids

FOLDER = "bookmarks"
FRESH = "fresh.json"

Slice = tuple[pa.RecordBatch, Mapping[str, Any], Sequence[RejectedRecord]]

_NOTHING = pa.RecordBatch.from_pylist([], schema=pa.schema([]))
_DAMAGED = "delete the folder it is in: the next run then reads everything"


class Current(BaseModel):
    """Which bookmark the next run begins with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    basis: str
    """Hash of what its records became, and where."""
    progress: str
    """The attempt chain that left it."""


class _Begun(BaseModel):
    """What the next bookmark of one attempt chain builds on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    basis: str
    touched: list[str]
    """Files of touched rows that were taken into account."""


def journal_name(source: str) -> str:
    """Name of what writes a source's next bookmark, among the committers of its stage."""
    return f"bookmark:{source}"


def read_all_again(graph: Path) -> None:
    """Have every source of a graph read everything, until a run has succeeded.

    Args:
        graph: The graph's state folder.
    """
    write_json(graph / FOLDER / FRESH, True)  # noqa: FBT003 - the document


class BookmarkFiles:
    """Where the bookmark of one source is kept.

    Args:
        graph: The graph's state folder.
        source: Id of the source's node.
    """

    def __init__(self, graph: Path, source: str) -> None:
        self.folder = graph / FOLDER / safe_name(source)
        self.touched = self.folder / "touched"
        self.current = self.folder / "current.json"
        self._fresh = graph / FOLDER / FRESH

    def load(self, basis: str) -> Bookmark:
        """What earlier runs left, as a source gets it.

        Raises:
            StorageError: It is damaged, or cannot be read.
        """
        current = self.read()
        touched = [rows for name in self.touched_files() for rows in self._touched(name)]
        if current is None:
            return Bookmark(touched=touched)
        trusted = current.basis == basis and not is_file(self._fresh)
        return Bookmark(last=self._rows(current.file), trusted=trusted, touched=touched)

    def read(self) -> "Current | None":
        """Which bookmark is current; `None` before the first successful run.

        Raises:
            StorageError: It is damaged.
        """
        return read_model(self.current, Current, _DAMAGED)

    def _rows(self, name: str) -> Sequence[pa.RecordBatch]:
        file = self.folder / name
        try:
            with told(file):
                return pq.read_table(fetch(file)).to_batches()
        except pa.ArrowInvalid as error:
            raise StorageError(f"{file} is damaged: {error}", remedy=_DAMAGED) from error

    def touched_files(self) -> list[str]:
        """Names of the files of touched rows."""
        return sorted(name for name in names(self.touched) if name.endswith(".arrow"))

    def _touched(self, name: str) -> list[pa.RecordBatch]:
        file = self.touched / name
        try:
            with told(file):
                return list(_batches(fetch(file)))
        except StorageError:
            # Its process died before it was whole, and so before anything was sent.
            return []


class TouchedLog:
    """Rows that are durable before what they speak of is sent.

    Args:
        folder: Where its files are kept, one for each call.
        progress: The attempt chain.
    """

    def __init__(self, folder: Path, progress: str) -> None:
        self._folder = folder
        self._progress = progress

    async def add(self, rows: pa.RecordBatch) -> None:
        """Keep rows; durable on return."""
        await to_thread.run_sync(self._add, rows)

    def _add(self, rows: pa.RecordBatch) -> None:
        name = format_ulid(ids_to_array(ulids(1))[0].as_py())
        file = self._folder / f"{self._progress}-{name}.arrow"
        with told(file):
            self._folder.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, rows.schema) as out:
                out.write_batch(rows)
            _sync(file)
            sync_folder(self._folder)
        publish(file)


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
        known = self._files.touched_files()
        may_empty = node.on_removed != "remove"
        self._bookmark = replace(self._files.load(basis), may_empty=may_empty)
        self._so_far = [b for part in parts for b in _batches(fetch(self._own / part.file))]
        self._touched = TouchedLog(self._files.touched, progress)
        write_json(self._own / "begun.json", _Begun(basis=basis, touched=known).model_dump())

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

    async def sent(self, counts: Counts, kept: Sequence[pa.Array], outlet: Outlet) -> None:
        """The last slice was sent on: what belongs to it follows it.

        Args:
            counts: Counts of the source.
            kept: Ids of records of the slice that could not be read: what was made of them stays.
            outlet: Where the slice was sent.
        """
        change, self._change = self._change, None
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
        ids = [] if change.gone is None else [change.gone]
        if change.batch is not None and change.batch.data.num_rows:
            ids.append(change.batch.data.column("_root_id"))
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


def own_folder(stage: Path, source: str) -> Path:
    """Where a stage keeps the next bookmark of a source."""
    return stage / "bookmarks" / safe_name(source)


def promote(
    graph: Path, progress: str, plan: Plan, stage_of: Callable[[Stage], tuple[Path, Checkpoint]]
) -> None:
    """Make the bookmarks of a chain current, all of whose stages are complete.

    Args:
        graph: The graph's state folder.
        progress: The chain.
        plan: The compiled graph.
        stage_of: Gives the state folder and the checkpoint of a stage.

    Raises:
        StorageError: The disk is full or refuses.
    """
    sources = [node for node in plan.nodes.values() if node.incremental]
    for node in sources:
        folder, checkpoint = stage_of(plan.stage_of[node.id])
        parts = checkpoint.parts.get(journal_name(node.id), [])
        _promote(BookmarkFiles(graph, node.id), own_folder(folder, node.id), progress, parts)
    if sources:
        remove_file(graph / FOLDER / FRESH)


def _promote(files: BookmarkFiles, own: Path, progress: str, parts: Sequence[Part]) -> None:
    begun = read_model(own / "begun.json", _Begun, _DAMAGED)
    current = files.read()
    # Names of chains sort by time: an old one that is completed late must not win over a newer.
    if begun is None or (current is not None and current.progress > progress):
        return
    # A name of its own each time, so that no copy of an earlier one is ever taken for it.
    file = files.folder / f"{format_ulid(ids_to_array(ulids(1))[0].as_py())}.parquet"
    failpoint("bookmark.before_write")
    with told(file):
        files.folder.mkdir(parents=True, exist_ok=True)
        _write(file, [own / part.file for part in parts])
        _sync(file)
        sync_folder(files.folder)
    publish(file)
    failpoint("bookmark.before_current")
    now = Current(file=file.name, basis=begun.basis, progress=progress)
    write_json(files.current, now.model_dump())
    failpoint("bookmark.after_current")
    for name in names(files.folder):
        if name.endswith(".parquet") and name != file.name:
            remove_file(files.folder / name)
    for name in files.touched_files():
        if name in begun.touched or name.startswith(f"{progress}-"):
            remove_file(files.touched / name)
    failpoint("bookmark.after_promotion")


def _write(file: Path, parts: Sequence[Path]) -> None:
    batches = (batch for part in parts for batch in _batches(fetch(part)))
    first = next(batches, _NOTHING)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


def _batches(part: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pa.OSFile(str(part), "rb") as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"{part} is gone or damaged: {error}", remedy=_DAMAGED) from error


def _sync(file: Path) -> None:
    with file.open("rb+") as written:
        os.fsync(written.fileno())
