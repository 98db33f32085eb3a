"""Bookmarks: what a source remembers between successful runs, and when it becomes current.

<graph>/bookmarks/<source>/current.json            names the file of the last successful run
<graph>/bookmarks/<source>/*.parquet               that file
<graph>/bookmarks/<source>/touched/*.arrow         what unfinished runs may have sent
<graph>/bookmarks/fresh-*.json                     everything is to be read again
<graph>/<progress>/<stage>/bookmarks/<source>/     the next bookmark, a part per epoch

The parts of the next bookmark are listed in the stage's checkpoint like those of a materialized
output, so they never say more than what was committed. When every stage is complete they are put
together, and one write makes them current, before the attempt chain is marked complete: a crash in
between promotes them again. No lease is held then: a process that was stopped on the way may find
that a later chain has left its own, and may neither replace that nor remove anything of it.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from anyio import to_thread
from pydantic import BaseModel, ConfigDict

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.checkpoint import Checkpoint
from nvisy_dagster.engine.documents import update_model
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.storage import (
    fetch,
    names,
    publish,
    read_model,
    remove_file,
    safe_name,
    sync_folder,
    told,
    write_json,
)
from nvisy_dagster.sdk import Bookmark
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids

FOLDER = "bookmarks"
_FRESH = re.compile(r"fresh(-[0-9A-Z]{26})?\.json")

_NOTHING = pa.RecordBatch.from_pylist([], schema=pa.schema([]))
DAMAGED = "delete the folder it is in: the next run then reads everything"


class Current(BaseModel):
    """Which bookmark the next run begins with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    basis: str
    """Hash of what its records became, and where."""
    progress: str
    """The attempt chain that left it."""


class Begun(BaseModel):
    """What the next bookmark of one attempt chain builds on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    basis: str
    touched: list[str]
    """Files of touched rows that were taken into account."""
    fresh: list[str] = []
    """Requests to read everything that were."""


def journal_name(source: str) -> str:
    """Name of what writes a source's next bookmark, among the committers of its stage."""
    return f"bookmark:{source}"


def read_all_again(graph: Path) -> None:
    """Have every source of a graph read everything, until a run has succeeded.

    Args:
        graph: The graph's state folder.
    """
    # A name of its own each time: who has read everything removes what was asked of him, no more.
    write_json(graph / FOLDER / f"fresh-{_ulid()}.json", True)  # noqa: FBT003 - the document


def _fresh(graph: Path) -> list[str]:
    return sorted(name for name in names(graph / FOLDER) if _FRESH.fullmatch(name))


def _ulid() -> str:
    return format_ulid(ids_to_array(ulids(1))[0].as_py())


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
        self._graph = graph

    def fresh(self) -> list[str]:
        """Names of the requests to read everything."""
        return _fresh(self._graph)

    def load(self, basis: str) -> Bookmark:
        """What earlier runs left, as a source gets it.

        Raises:
            StorageError: It is damaged, or cannot be read.
        """
        current = self.read()
        touched = [rows for name in self.touched_files() for rows in self._touched(name)]
        if current is None:
            return Bookmark(touched=touched)
        trusted = current.basis == basis and not self.fresh()
        return Bookmark(last=self._rows(current.file), trusted=trusted, touched=touched)

    def read(self) -> "Current | None":
        """Which bookmark is current; `None` before the first successful run.

        Raises:
            StorageError: It is damaged.
        """
        return read_model(self.current, Current, DAMAGED)

    def _rows(self, name: str) -> Sequence[pa.RecordBatch]:
        file = self.folder / name
        try:
            with told(file):
                return pq.read_table(fetch(file)).to_batches()
        except pa.ArrowInvalid as error:
            raise StorageError(f"{file} is damaged: {error}", remedy=DAMAGED) from error

    def touched_files(self) -> list[str]:
        """Names of the files of touched rows."""
        return sorted(name for name in names(self.touched) if name.endswith(".arrow"))

    def _touched(self, name: str) -> list[pa.RecordBatch]:
        file = self.touched / name
        with told(file):
            try:
                return _read_all(fetch(file))
            except FileNotFoundError:
                # A run that came to its end has taken it into account and removed it, just now.
                return []
            except pa.ArrowInvalid:
                # Its process died before it was whole, and so before anything was sent.
                return []


def _read_all(file: Path) -> list[pa.RecordBatch]:
    """The batches of a small file, read before they are understood: an `OSError` is of the disk."""
    reader = pa.ipc.open_file(pa.BufferReader(file.read_bytes()))
    try:
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except OSError as error:
        raise pa.ArrowInvalid(str(error)) from error


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
        file = self._folder / f"{self._progress}-{_ulid()}.arrow"
        with told(file):
            self._folder.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, rows.schema) as out:
                out.write_batch(rows)
            _sync(file)
            sync_folder(self._folder)
        publish(file)


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
    done: list[list[str]] = []
    for node in sources:
        folder, checkpoint = stage_of(plan.stage_of[node.id])
        own = own_folder(folder, node.id)
        begun = read_model(own / "begun.json", Begun, DAMAGED)
        if begun is not None:
            parts = checkpoint.parts.get(journal_name(node.id), [])
            _promote(BookmarkFiles(graph, node.id), begun, progress, [own / p.file for p in parts])
            done.append(begun.fresh)
    for name in set(done[0]).intersection(*done) if done else ():
        remove_file(graph / FOLDER / name)


def _promote(files: BookmarkFiles, begun: Begun, progress: str, parts: Sequence[Path]) -> None:
    current = files.read()
    # Names of chains sort by time: an old one that is completed late must not win over a newer.
    if current is not None and current.progress > progress:
        return
    # A name of its own each time, so that no copy of an earlier one is ever taken for it.
    file = files.folder / f"{_ulid()}.parquet"
    failpoint("bookmark.before_write")
    with told(file):
        files.folder.mkdir(parents=True, exist_ok=True)
        _write(file, parts)
        _sync(file)
        sync_folder(files.folder)
    publish(file)
    failpoint("bookmark.before_current")
    now = Current(file=file.name, basis=begun.basis, progress=progress)

    def later(before: Current | None) -> tuple[Current | None, str | None]:
        if before is not None and before.progress > progress:
            return None, None
        return now, "" if before is None else before.file

    replaced = update_model(files.current, Current, later, DAMAGED)
    if replaced is None:
        remove_file(file)
        return
    failpoint("bookmark.after_current")
    for name in names(files.folder):
        # Of those that nobody speaks of only what is older than this chain: a later one may be
        # about to make its own current.
        if name == replaced or (name.endswith(".parquet") and name < progress):
            remove_file(files.folder / name)
    for name in files.touched_files():
        if name in begun.touched or name.startswith(f"{progress}-"):
            remove_file(files.touched / name)
    failpoint("bookmark.after_promotion")


def _write(file: Path, parts: Sequence[Path]) -> None:
    batches = (batch for part in parts for batch in batches_of(fetch(part)))
    first = next(batches, _NOTHING)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


def batches_of(part: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a part of a bookmark.

    Raises:
        StorageError: It is gone or damaged.
    """
    try:
        with pa.OSFile(str(part), "rb") as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"{part} is gone or damaged: {error}", remedy=DAMAGED) from error


def _sync(file: Path) -> None:
    with file.open("rb+") as written:
        os.fsync(written.fileno())
