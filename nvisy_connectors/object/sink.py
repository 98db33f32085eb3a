"""Writing objects to any store, in any format: exactly once, by epochs."""

import shutil
from abc import abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.errors import disk_error
from nvisy_connectors.object.folder import Folder
from nvisy_connectors.object.formats.writers import WRITERS
from nvisy_connectors.object.open_parts import OpenParts, Part
from nvisy_connectors.object.params import WriteParams
from nvisy_connectors.object.partitions import Split, check_partition_by, split
from nvisy_connectors.object.parts import PartName, parse_part, run_token
from nvisy_connectors.object.pipeline import together
from nvisy_connectors.object.uploads import OnlyUpload, PartUpload, UploadAhead
from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    DataError,
    EdgeType,
    NvisyError,
    Progress,
    Sink,
)
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, payload
from nvisy_dagster.sdk.identity import format_uuid

P = TypeVar("P", bound=WriteParams)

UPLOADS = 16
"""Parts that are published at once."""

AHEAD = 2
"""Parts that are sent while they are still written."""
SENT = 16
"""Parts that are sent before they are published, at most: of each, a piece of a chunk waits in
memory for its end."""

CONTENT = {
    "text": ("text", "string", (pa.types.is_string, pa.types.is_large_string)),
    "binary": ("data", "binary", (pa.types.is_binary, pa.types.is_large_binary)),
}
"""Formats that write one column of a record as a file of its own: which, and of what type."""


class ObjectSink(Sink[P]):
    """Writes parts to files of this machine and publishes them when an epoch is committed.

    So a part appears whole or not at all, an upload can be tried again, and memory stays small.
    """

    capabilities = Capabilities(write_mode="epoch")

    objects: Folder
    _run = ""
    _partial = False
    _spool: Path
    _parts: OpenParts

    @abstractmethod
    async def make_folder(self) -> Folder:
        """Where the objects go; made if it can be.

        Raises:
            ConfigError: There cannot be such a place.
        """

    def keeps_earlier(self) -> bool:
        """In mode `append` only."""
        return self.params.mode == "append"

    def check(self, incoming: EdgeType) -> None:
        """What is a file of its own needs its column; other formats take all but no payload."""
        if incoming.schema is None:
            return
        names = [name for name in incoming.schema.names if name not in ENVELOPE_NAMES]
        if self.params.format in CONTENT:
            column, what, fits = CONTENT[self.params.format]
            if column not in names or not any(
                fit(incoming.schema.field(column).type) for fit in fits
            ):
                raise ConfigError(
                    f"param 'format' is {self.params.format!r}, but no column {column!r} of type "
                    f"{what} comes in; the columns are {', '.join(names) or 'none'}",
                    remedy="make one with a `map` before, or write `jsonl` or `parquet`",
                    tag="schema",
                )
        elif not names and not self.params.envelope:
            raise ConfigError(
                "no columns come in but the envelope",
                remedy='set "envelope": true to write it',
                tag="schema",
            )
        if self.params.partition_by:
            check_partition_by(self.params.partition_by, incoming.schema)
        WRITERS[self.params.format].check(incoming.schema, self.params)

    async def open(self) -> None:
        """Ask for the first page of the listing, so that what is refused is told at once."""
        self.objects = await self.make_folder()
        self.stack.callback(self.objects.close)
        self._turn = anyio.Lock()
        self._schema: pa.Schema | None = None
        self._broken: NvisyError | None = None
        async with aclosing(self.objects.listing()) as pages:
            await anext(pages, None)

    async def start(self, progress: Progress) -> None:
        """Delete what this run wrote after its last checkpoint."""
        self._run = run_token(progress.id)
        self._partial = progress.partial
        writer = run_token(f"{self._run}.{self.node_id}")
        with anyio.CancelScope(shield=True):  # what is made must be known, to be removed
            self._spool = await self.objects.make_spool(writer, progress.token)
        # Lost with an unbounded epoch would be too much for the time that a copy takes.
        pieces = self.objects.takes_pieces and progress.bounded_epochs
        copies = not pieces or WRITERS[self.params.format].one_record
        self._parts = OpenParts(
            self.params, self._spool, self._run, progress.epoch + 1, keeps_copies=copies
        )
        self.stack.push_async_callback(self._discard)
        await self._delete(lambda part: part.run == self._run and part.epoch > progress.epoch)

    async def write(self, batch: pa.RecordBatch) -> None:
        """Add rows to the open parts; nobody sees them before `commit`.

        Raises:
            DataError: No folder can be named after the values of some rows.
        """
        if batch.num_rows:
            async with self._turn:
                # First what was written before: a call that is cut off while it sends has written
                # nothing, and may be made again.
                await self._send_ahead()
                await self._spool_work(lambda: self._write(batch))

    async def commit(self, epoch: int) -> None:
        """Publish the parts of this epoch."""
        async with self._turn:
            await self._spool_work(self._parts.close)
            if parts := self._parts.closed:
                for start in range(0, len(parts), UPLOADS):
                    await together(self._publish(part) for part in parts[start : start + UPLOADS])
                await self.objects.flush()
            self._parts.committed(epoch)

    async def finish(self) -> None:
        """In mode `replace`, delete the parts of earlier runs."""
        if self.params.mode == "replace" and not self._partial:
            await self._delete(lambda part: part.run != self._run)

    async def _spool_work(self, work: Callable[[], None]) -> None:
        """Work on the open part.

        A file that failed half way stays so: to write the same rows again would double some.
        """
        if self._broken is not None:
            raise self._broken
        try:
            await to_thread.run_sync(work)
        except OSError as error:
            self._broken = disk_error(error, self.location() or "", writing=True)
            raise self._broken from error

    async def _send_ahead(self) -> None:
        """Send what large parts hold by now: when they are whole there is less left to be sent."""
        if not self.objects.takes_pieces:
            return
        large = await to_thread.run_sync(self._parts.large)
        begun = [part for part in large if part.upload is not None]
        left = min(AHEAD - sum(not part.is_closed for part in begun), SENT - len(begun))
        for part in large:
            if part.upload is None and left > 0:
                part.upload = self._begin(part)
                left -= 1
            if part.upload is not None and not part.is_sent:
                await part.upload.send()
                part.is_sent = part.is_closed

    def _begin(self, part: Part) -> PartUpload:
        upload = self.objects.begin(part.key)
        if isinstance(part.file, Path):
            return UploadAhead(upload, part.file)

        async def stored() -> int | None:
            found = await self.objects.head(part.key)
            return None if found is None else found.size

        return OnlyUpload(upload, part.file, stored, self.objects.uri(part.key))

    async def _publish(self, part: Part) -> None:
        if part.is_published:
            return
        # `start` has deleted what an earlier attempt left, so only a rival can hold this name.
        if not part.is_tried and await self.objects.head(part.key) is not None:
            raise ConfigError(
                f"{self.objects.uri(part.key)} exists: another sink of this run writes there too",
                remedy="give each sink a folder or prefix of its own",
                tag="conflict",
            )
        part.is_tried = True
        if part.upload is None or not await part.upload.finish():
            part.upload = None
            await self.objects.publish(part.path, part.key)
        part.is_published = True
        # The disk holds what is not published, and not all that the run writes.
        await to_thread.run_sync(partial(part.path.unlink, missing_ok=True))

    async def _delete(self, chosen: Callable[[PartName], bool]) -> None:
        keys: list[str] = []
        async with aclosing(self.objects.listing()) as pages:
            async for page in pages:
                for info in page:
                    part = parse_part(info.key)
                    if part is not None and chosen(part):
                        keys.append(info.key)
        if keys:
            await self.objects.delete(keys)
            await self.objects.flush()

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._schema is None:
            # What came in may not have been known when the graph was compiled.
            self.check(EdgeType("row", batch.schema))
            self._schema = batch.schema
        rows = batch if self.params.envelope or self.params.format in CONTENT else payload(batch)
        if WRITERS[self.params.format].one_record:
            for place, record in enumerate(batch.column("_id").to_pylist()):
                self._parts.write(rows.slice(place, 1), record=format_uuid(record))
        elif self.params.partition_by:
            self._write_partitions(rows)
        else:
            self._parts.write(rows)

    def _write_partitions(self, rows: pa.RecordBatch) -> None:
        found = split(rows, self.params.partition_by)
        left = rows.drop_columns(list(self.params.partition_by))
        for folder in self._parts.open_first(found.folders):
            # Copied, for a slice would keep all of the batch in memory while it waits.
            self._parts.write(left.take(pa.array(found.folders[folder])), folder=folder)
        if found.refused:
            raise _unnamed(found, rows.num_rows)

    async def _discard(self) -> None:
        def remove() -> None:
            self._parts.abandon()
            shutil.rmtree(self._spool, ignore_errors=True)

        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(remove)


def _unnamed(found: Split, of: int) -> DataError:
    reason = found.refused[min(found.refused)]
    return DataError(
        f"{len(found.refused)} of {of} rows fit into no folder: {reason}",
        rows=dict(sorted(found.refused.items())),
        remedy="shorten the value with a `map` before, or partition by another column",
        tag="validation",
    )
